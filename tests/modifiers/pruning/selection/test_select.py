"""Selection against a brute-force stable sort."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paredown.framework.errors import TargetError
from paredown.modifiers.pruning.masks.apply import prune_smallest_
from paredown.modifiers.pruning.selection import threshold as threshold_module
from paredown.modifiers.pruning.selection.select import find_threshold, smallest

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def brute_force(scores, count, magnitude=True):
    flat = torch.cat([tensor.flatten().to(torch.float64) for tensor in scores])
    ranked = (flat.abs() if magnitude else flat).sort(stable=True).indices[:count]
    marks = torch.zeros(len(flat), dtype=torch.bool)
    marks[ranked] = True
    return [
        part.view(tensor.shape) for part, tensor in zip(marks.split([t.numel() for t in scores]), scores, strict=True)
    ]


def assert_selects(scores, count, order="magnitude"):
    expected = brute_force(scores, count, order == "magnitude")
    for mark, wanted in zip(smallest(scores, count, order=order), expected, strict=True):
        assert torch.equal(mark, wanted)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, 1e-40, -1e-40, 6e-8, math.inf, -math.inf, 65504.0]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), order=st.sampled_from(["magnitude", "value"]))
def test_any_values_and_ties(data, dtype, order):
    values = st.lists(st.sampled_from(SPECIAL) | st.floats(-2, 2), max_size=12)
    scores = [
        torch.tensor(row, dtype=torch.float64).to(dtype) for row in data.draw(st.lists(values, min_size=1, max_size=4))
    ]
    total = sum(tensor.numel() for tensor in scores)
    assert_selects(scores, data.draw(st.integers(0, total)), order)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9, 0.999, 1.0])
def test_large_tensors_that_take_the_sampled_path(dtype, share):
    torch.manual_seed(0)
    scores = [torch.randn(300, 700).to(dtype), torch.randn(250_000).to(dtype), torch.zeros(3).to(dtype)]
    assert_selects(scores, int(share * sum(tensor.numel() for tensor in scores)))


@pytest.mark.parametrize(
    "flat",
    [
        pytest.param(torch.ones(400_000), id="all equal"),
        pytest.param(torch.cat([torch.zeros(360_000), torch.rand(40_000)]), id="mostly zeros"),
        pytest.param(torch.arange(400_000.0), id="sorted"),
        pytest.param(torch.randint(0, 3, (400_000,)).float(), id="three values"),
        pytest.param(torch.randn(400_000) * 1e-42, id="denormals"),
        pytest.param(torch.full((400_000,), math.inf), id="infinite"),
    ],
)
@pytest.mark.parametrize("count", [1, 39_999, 360_000, 360_001, 399_999])
def test_distributions_with_large_ties(flat, count):
    assert_selects([flat[:150_000], flat[150_000:].reshape(500, 500)], count)


def test_a_sample_that_misleads_is_noticed():
    scores = torch.ones(4_000_001)
    scores[::21] = torch.rand(190_477) * 100  # what the strided sample sees is nothing like the rest
    assert_selects([scores], 100_000)
    assert_selects([scores], 3_900_000)


def test_halving_alone_is_exact(monkeypatch):
    monkeypatch.setattr(threshold_module, "_WIDTHS", ())
    for dtype in DTYPES:
        assert_selects([torch.randn(1000).to(dtype), torch.randint(-2, 2, (50, 10)).to(dtype)], 700)
        assert_selects([torch.randn(1000).to(dtype)], 123, "value")


def test_too_many_to_collect_falls_back_to_halving(monkeypatch):
    monkeypatch.setattr(threshold_module, "_SAMPLE", 100)
    monkeypatch.setattr(threshold_module, "_COLLECTED", 0.0001)
    assert_selects([torch.randn(100_000)], 77_777)


def test_mixed_dtypes_compare_exactly():
    assert_selects([torch.randn(500).half(), torch.randn(500), torch.randn(500).bfloat16()], 700)


def test_layouts_rank_by_logical_index():
    torch.manual_seed(0)
    integers = torch.randint(-2, 3, (8, 6, 5, 5)).float()
    for scores in (integers.to(memory_format=torch.channels_last), integers.transpose(0, 2), integers[:, ::2]):
        for count in (1, 100, 333):
            assert_selects([scores], count)


def test_nan_is_refused_by_name_and_nothing_changes():
    weights = [torch.randn(10), torch.randn(10)]
    weights[1][3] = math.nan
    before = [weight.clone() for weight in weights]
    for call in (find_threshold, smallest, prune_smallest_):
        for count in (0, 5, 20):
            with pytest.raises(TargetError, match=r"head\.weight contains NaN"):
                call(weights, count, names=["stem.weight", "head.weight"])
    assert all(
        torch.equal(
            a,
            b,
        )
        or a.isnan().any()
        for a, b in zip(weights, before, strict=True)
    )


@pytest.mark.parametrize("count", [-1, 11])
def test_impossible_counts(count):
    with pytest.raises(ValueError, match=f"cannot select {count} of 10"):
        smallest([torch.randn(10)], count)


def test_integers_have_no_order_here():
    with pytest.raises(TypeError, match="int64"):
        smallest([torch.arange(4)], 2)


def test_nothing_at_all():
    assert smallest([], 0) == []
    assert smallest([torch.empty(0)], 0)[0].numel() == 0
