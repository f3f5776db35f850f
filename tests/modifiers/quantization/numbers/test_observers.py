"""Observers against brute force over everything that was seen."""

import pytest
import torch

from paredown.modifiers.quantization.numbers.observers import (
    FOLLOWERS,
    extremes,
    minmax_,
    moving_average_,
    unseen_range,
)


@pytest.mark.parametrize("channel", [None, 0, 1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extremes(channel, dtype):
    x = torch.randn(4, 5, 6).to(dtype)
    low, high = extremes(x, channel)
    rows = [x] if channel is None else x.unbind(channel)
    assert low.flatten().tolist() == [row.min().item() for row in rows]
    assert high.flatten().tolist() == [row.max().item() for row in rows]


def test_minmax_is_the_extremes_of_everything():
    batches = torch.randn(7, 100)
    low, high = unseen_range()
    for batch in batches:
        minmax_(low, high, *extremes(batch))
    assert (low, high) == (batches.min(), batches.max())


@pytest.mark.parametrize("channels", [None, 3])
def test_moving_average(channels):
    batches = torch.randn(20, 3, 50, dtype=torch.float64)
    low, high = unseen_range(channels, dtype=torch.float64)
    expected = None
    for batch in batches:
        new = extremes(batch, None if channels is None else 0)
        moving_average_(low, high, *new)
        expected = (
            new if expected is None else tuple(0.99 * old + 0.01 * end for old, end in zip(expected, new, strict=True))
        )
    assert torch.allclose(low, expected[0], atol=1e-12)
    assert torch.allclose(high, expected[1], atol=1e-12)


@pytest.mark.parametrize("name", FOLLOWERS)
def test_updates_happen_in_place_and_compile(name):
    low, high = unseen_range()
    observe = torch.compile(FOLLOWERS[name], fullgraph=True, backend="eager")
    places = low.data_ptr(), high.data_ptr()
    observe(low, high, torch.tensor(-1.0), torch.tensor(2.0))
    assert (low.item(), high.item()) == (-1.0, 2.0)
    assert (low.data_ptr(), high.data_ptr()) == places
