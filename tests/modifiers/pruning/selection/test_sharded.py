"""Selection over tensors that are split among processes: exactly that of one process, whatever the parts."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from two_processes import in_processes

from paredown.framework.distributed.shards import own_part, put_together, whole_of_part
from paredown.framework.errors import TargetError
from paredown.modifiers.pruning.masks.apply import prune_smallest_, to_bool
from paredown.modifiers.pruning.selection.select import smallest

#: rows that do not divide, a part that is empty (one row for two or three processes), a scalar's worth, a plain tensor
SHAPES = [(7, 5), (1, 9), (64, 3), (2, 2, 3, 3), (5,)]
KINDS = ["random", "ties", "zeros", "wide"]
ORDERS = ["magnitude", "value"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def tensors(kind, dtype):
    generator = torch.Generator().manual_seed(3)
    found = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    made = {
        "random": lambda x: x,
        "ties": lambda x: x.mul(2).round().div(2),
        "zeros": lambda x: x * (x.abs() > 1),
        "wide": lambda x: x * torch.exp(20 * x),
    }
    return [made[kind](x).to(dtype) for x in found]


def counts(total):
    return [1, 2, total // 3, total // 2, total - 1, total]


def split(values, mesh):
    *most, last = values
    return [*(distribute_tensor(x, mesh, [Shard(0)]) for x in most), last]


def selections(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    found = {}
    for kind in KINDS:
        for dtype in DTYPES:
            parts = split(tensors(kind, dtype), mesh)
            for order in ORDERS:
                for count in counts(sum(x.numel() for x in parts)):
                    marks = smallest(parts, count, order=order)
                    wholes = [put_together(whole_of_part(mark, part)) for mark, part in zip(marks, parts, strict=True)]
                    found[f"{kind} {dtype} {order} {count}"] = wholes
    return found


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_the_selection_is_that_of_one_process(world, tmp_path):
    for found in in_processes(selections, world, tmp_path):
        for kind in KINDS:
            for dtype in DTYPES:
                values = tensors(kind, dtype)
                for order in ORDERS:
                    for count in counts(sum(x.numel() for x in values)):
                        wanted = smallest(values, count, order=order)
                        name = f"{kind} {dtype} {order} {count}"
                        assert sum(int(x.sum()) for x in found[name]) == count
                        assert all(map(torch.equal, found[name], wanted)), name


def masks_in_place(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    found = {}
    for form in ("fast", "compact"):
        parts = split(tensors("ties", torch.float32), mesh)
        masks = prune_smallest_(parts, 100, form=form)
        assert all(torch.equal(to_bool(mask), own_part(part) != 0) for mask, part in zip(masks, parts, strict=True))
        found[form] = [put_together(part) for part in parts]
    copies = init_device_mesh("cpu", (1, world))
    twice = [distribute_tensor(x, copies, [Replicate(), Shard(0)]) for x in tensors("ties", torch.float32)]
    prune_smallest_(twice, 100)
    found["replicated"] = [put_together(part) for part in twice]
    bad = split(tensors("random", torch.float32), mesh)
    if rank == 1:
        own_part(bad[2])[0, 0] = torch.nan
    for count in (0, 100):
        try:
            prune_smallest_(bad, count, names=list("abcde"))
        except TargetError as error:
            found[f"error {count}"] = str(error)
    found["untouched"] = [torch.equal(put_together(x), y) for x, y in zip(bad, tensors("random", torch.float32))]  # noqa: B905
    return found


@pytest.mark.slow
def test_weights_are_pruned_in_place_and_nan_is_refused_by_all(tmp_path):
    first, second = in_processes(masks_in_place, 2, tmp_path)
    wanted = tensors("ties", torch.float32)
    prune_smallest_(wanted, 100)
    for found in (first, second):
        for name in ("fast", "compact", "replicated"):
            assert all(map(torch.equal, found[name], wanted)), name
        assert found["untouched"] == [True, True, False, True, True]
    for count in (0, 100):
        assert first[f"error {count}"].startswith("a weight in another process contains NaN")
        assert second[f"error {count}"].startswith("c contains NaN")
