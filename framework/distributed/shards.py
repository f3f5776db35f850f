"""Parameters of which each process holds a part (DTensor: FSDP2's `fully_shard`, tensor parallelism).

What acts on them acts on its own part and agrees by reductions; where one tensor is needed whole, it is put together
for the moment, never the model.
"""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "any_of_parts",
    "counts_by_part",
    "is_sharded",
    "outlive_gloo",
    "own_part",
    "put_together",
    "sharded_in",
    "split_in_forward",
    "sum_of_parts",
    "sums_of_parts",
    "whole_of_part",
]


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor, of which each process holds a part."""
    return dist.is_available() and dist.is_initialized() and isinstance(tensor, _dtensor())


def sharded_in(tensors: Iterable[Tensor]) -> bool:
    """Whether one of them is a DTensor."""
    return any(is_sharded(tensor) for tensor in tensors)


def split_in_forward(model: nn.Module, gathered: bool = False) -> Iterator[nn.Parameter]:
    """The parameters that stay split while the model runs (tensor parallelism); FSDP2 puts together what it split.

    Args:
        model: or a module in it.
        gathered: whether FSDP2 wraps a module around it.
    """
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule  # takes long: not at import

        gathered = gathered or isinstance(model, FSDPModule)
        for parameter in model.parameters(recurse=False):
            if len(_split_dimensions(parameter)) > (1 if gathered else 0):
                yield parameter
        for child in model.children():
            yield from split_in_forward(child, gathered)


@functools.cache
def outlive_gloo() -> None:
    """Wait a moment at the end of the process (registered once), where gloo's threads are used.

    After FSDP2's last collective one of them still lets go of a tensor, for which it needs the interpreter; torch 2.13
    aborts the process where that is gone already ("terminate called without an active exception").
    """
    if "gloo" in str(dist.get_backend()):
        atexit.register(time.sleep, 0.2)


def own_part(tensor: Any) -> Tensor:
    """What this process holds of a tensor, in the same memory and without a graph; may be empty. A plain tensor is
    held whole."""
    part: Tensor = tensor.detach().to_local() if is_sharded(tensor) else tensor.detach()
    return part


def whole_of_part(part: Tensor, like: Any) -> Tensor:
    """The DTensor whose part in this process is ``part``, split as ``like`` is; ``part`` itself where that is plain."""
    if not is_sharded(like):
        return part
    whole: Tensor = _dtensor().from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return whole


def put_together(tensor: Any) -> Tensor:
    """The whole of one tensor, for the moment; all processes call it. A plain tensor is given back."""
    whole: Tensor = tensor.detach().full_tensor() if is_sharded(tensor) else tensor
    return whole


def sum_of_parts(numbers: Tensor, like: Tensor) -> Tensor:
    """The sum of plain numbers, in place, over the processes among which ``like`` is split; copies count once."""
    for group in _groups(like):
        dist.all_reduce(numbers, group=group)
    return numbers


def sums_of_parts(counts: Sequence[int], likes: Sequence[Tensor]) -> list[int]:
    """The sum of one count for each tensor over the processes among which it is split, in as few reductions as there
    are ways of splitting."""
    kinds: dict[object, list[int]] = {}
    for place, like in enumerate(likes):
        if is_sharded(like):
            kinds.setdefault((like.device_mesh, like.placements), []).append(place)  # type: ignore[attr-defined]
    sums = list(counts)
    for places in kinds.values():
        like = likes[places[0]]
        own = torch.tensor([counts[place] for place in places], dtype=torch.int64, device=own_part(like).device)
        for place, total in zip(places, sum_of_parts(own, like).tolist(), strict=True):
            sums[place] = total
    return sums


def any_of_parts(found: bool, like: Tensor) -> bool:
    """Whether it was found in any part of ``like``."""
    return bool(sum_of_parts(torch.tensor([int(found)], device=own_part(like).device), like))


def counts_by_part(count: int, like: Any) -> tuple[int, int]:
    """Of a number that each part of ``like`` has: the sum over the parts before this process's, and over all."""
    place, parts = 0, 1
    for dimension in _split_dimensions(like):
        place = place * like.device_mesh.size(dimension) + like.device_mesh.get_local_rank(dimension)
        parts *= like.device_mesh.size(dimension)
    counts = torch.zeros(parts, dtype=torch.int64, device=own_part(like).device)
    counts[place] = count
    counts = sum_of_parts(counts, like)
    return int(counts[:place].sum()), int(counts.sum())


def _dtensor() -> Any:
    from torch.distributed.tensor import DTensor  # takes 0.2 s: not at import

    return DTensor


def _split_dimensions(like: Any) -> list[int]:
    """The dimensions of the mesh along which a tensor is split, not copied."""
    if not is_sharded(like):
        return []
    return [place for place, placement in enumerate(like.placements) if not placement.is_replicate()]


def _groups(like: Any) -> list[Any]:
    return [like.device_mesh.get_group(dimension) for dimension in _split_dimensions(like)]
