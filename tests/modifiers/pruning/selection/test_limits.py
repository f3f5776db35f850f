"""Selection within limits against one element after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from two_processes import in_processes

from paredown.framework.distributed.shards import put_together, whole_of_part
from paredown.framework.errors import TargetError
from paredown.modifiers.pruning.selection import limits as limits_module
from paredown.modifiers.pruning.selection.limits import find_thresholds, smallest_within

VALUES = st.lists(st.sampled_from([0.0, -1.0, 1.0, 0.5]) | st.floats(-2, 2), max_size=12)


def one_by_one(scores, count, limits, magnitude):
    """The smallest goes first, unless its tensor has given all that it may give."""
    entries = [
        (abs(value) if magnitude else value, tensor, place)
        for tensor, each in enumerate(scores)
        for place, value in enumerate(each.flatten().tolist())
    ]
    left, marks = list(limits), [torch.zeros(each.numel(), dtype=torch.bool) for each in scores]
    for _, tensor, place in sorted(entries):
        if count and left[tensor]:
            marks[tensor][place] = True
            left[tensor], count = left[tensor] - 1, count - 1
    return [mark.view(each.shape) for mark, each in zip(marks, scores, strict=True)]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), order=st.sampled_from(["magnitude", "value"]))
def test_any_values_ties_and_limits(data, order):
    rows = data.draw(st.lists(VALUES, min_size=1, max_size=4))
    scores = [torch.tensor(row, dtype=torch.float32) for row in rows]
    limits = [data.draw(st.integers(0, each.numel())) for each in scores]
    count = data.draw(st.integers(0, sum(limits)))
    wanted = one_by_one(scores, count, limits, order == "magnitude")
    assert all(map(torch.equal, smallest_within(scores, count, limits, order=order), wanted))


def test_large_tensors_of_which_one_after_the_other_is_at_its_limit():
    torch.manual_seed(0)
    scores = [torch.randn(300, 700) * scale for scale in (1e-3, 1e-2, 0.1, 1.0)]
    limits = [int(0.9 * each.numel()) for each in scores]
    count = int(0.85 * sum(each.numel() for each in scores))
    found = find_thresholds(scores, count, limits)
    assert sorted(place for places, _ in found for place in places) == [0, 1, 2, 3]
    marks = smallest_within(scores, count, limits)
    assert [int(mark.sum()) for mark in marks] == [*limits[:3], count - sum(limits[:3])]
    for score, mark in zip(scores, marks, strict=True):
        assert score.abs()[mark].max() < score.abs()[~mark].min()


def test_where_no_limit_binds_little_more_is_read(monkeypatch):
    torch.manual_seed(0)
    scores, read = [torch.randn(2000, 1000), torch.randn(2000, 1000)], []
    keys = limits_module.ordered_keys
    monkeypatch.setattr(
        limits_module, "ordered_keys", lambda part, *more: read.append(part.numel()) or keys(part, *more)
    )
    find_thresholds(scores, 2_000_000, [1_980_000, 1_980_000])
    assert sum(read) < 0.2 * 4_000_000


def test_more_than_the_limits_and_nan_are_refused():
    with pytest.raises(ValueError, match="cannot select 2 of 0 scores"):
        smallest_within([torch.ones(4)], 3, [1])
    with pytest.raises(TargetError, match="b contains NaN"):
        smallest_within([torch.ones(2), torch.tensor([torch.nan])], 1, [1, 1], names=["a", "b"])


def parted(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    found = {}
    for ties in (False, True):
        values = tensors(ties)
        parts = [*(distribute_tensor(each, mesh, [Shard(0)]) for each in values[:-1]), values[-1]]
        marks = smallest_within(parts, 120, LIMITS)
        found[str(ties)] = [put_together(whole_of_part(*pair)) for pair in zip(marks, parts, strict=True)]
    return found


LIMITS = [20, 9, 100, 4]


def tensors(ties):
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(shape, generator=generator) for shape in [(7, 5), (1, 9), (64, 3), (5,)]]
    values[0].mul_(0.01)
    return [each.mul(2).round() for each in values] if ties else values


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_parts_in_several_processes(world, tmp_path):
    for found in in_processes(parted, world, tmp_path):
        for ties in (False, True):
            wanted = one_by_one(tensors(ties), 120, LIMITS, True)
            assert all(map(torch.equal, found[str(ties)], wanted)), ties
