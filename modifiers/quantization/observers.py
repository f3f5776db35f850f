"""Observers: how the range of a tensor is found from the values that pass by.

A range is two tensors, ``low`` and ``high``, updated in place (they may be buffers of a module, and the update may be
compiled); before the first value they are +inf and -inf. An observer is a function on them, found by its name in the
recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

__all__ = ["OBSERVERS", "Observer", "extremes", "minmax_", "moving_average_", "unseen_range"]

Observer = Callable[[Tensor, Tensor, Tensor, Tensor], None]

MOMENTUM = 0.01


def unseen_range(
    channels: int | None = None, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """The range of nothing, +inf to -inf: 0-d tensors, or of shape (channels,)."""
    shape = () if channels is None else (channels,)
    low = torch.full(shape, torch.inf, dtype=dtype, device=device)
    return low, low.neg()


def extremes(x: Tensor, channel: int | None = None) -> tuple[Tensor, Tensor]:
    """The smallest and largest value of a tensor that is not empty, or of each of its channels: 0-d, or shape (C,)."""
    x = x.detach()
    if channel is None:
        low, high = x.aminmax()
        return low, high
    others = [dimension for dimension in range(x.dim()) if dimension != channel % x.dim()]
    return (x.amin(others), x.amax(others)) if others else (x, x)


def minmax_(low: Tensor, high: Tensor, new_low: Tensor, new_high: Tensor) -> None:
    """Widen the range to the new extremes."""
    low.copy_(torch.minimum(low, new_low.to(low.dtype)))
    high.copy_(torch.maximum(high, new_high.to(high.dtype)))


def moving_average_(low: Tensor, high: Tensor, new_low: Tensor, new_high: Tensor) -> None:
    """Move both ends a hundredth of the way to the new extremes; the first extremes are taken as they are.

    The momentum is torch.ao.quantization's; it bounds what one outlier among the batches can do to the range.
    """
    unseen = low > high
    for end, new in ((low, new_low.to(low.dtype)), (high, new_high.to(high.dtype))):
        end.copy_(torch.where(unseen, new, end + MOMENTUM * (new - end)))


OBSERVERS: Mapping[str, Observer] = MappingProxyType({"minmax": minmax_, "moving_average": moving_average_})
