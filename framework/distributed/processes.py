"""Reductions over the processes of a run; without a process group every function returns its input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["extremes_of_all", "in_one_process", "mean_of_all", "sum_of_all"]


def in_one_process() -> bool:
    """Whether there is nobody to agree with."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def extremes_of_all(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest ``low`` and the largest ``high`` of all processes, elementwise; one collective operation."""
    if in_one_process():
        return low, high
    ends = torch.stack([low.neg(), high])
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    return ends[0].neg(), ends[1]


def mean_of_all(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The means over all processes, elementwise; one collective operation for all tensors, of one type and device."""
    if in_one_process() or not tensors:
        return tensors
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat.div_(dist.get_world_size()), [tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def sum_of_all(tensor: Tensor) -> Tensor:
    """The sum over all processes."""
    if in_one_process():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total
