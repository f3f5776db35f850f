"""Observers: how the range of a tensor is found from the values that pass by.

A range is two tensors, ``low`` and ``high``, updated in place (they may be buffers of a module, and the update may be
compiled); before the first value they are +inf and -inf. ``minmax`` and ``moving_average`` are functions on them; the
others keep a histogram (`paredown.modifiers.quantization.numbers.histogram`) and are solved for their range at every
update of the modifier. In a distributed run the extremes of a batch are those of all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.framework.distributed.processes import extremes_of_all
from paredown.modifiers.quantization.numbers.histogram import BINS, SOLVERS, count_
from paredown.modifiers.quantization.numbers.scales import affine_parameters
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["FOLLOWERS", "Observation", "extremes", "minmax_", "moving_average_", "unseen_range"]

GradientTransfer = Callable[[Tensor, Tensor, Tensor, Tensor], None]

MOMENTUM = 0.01


@dataclass
class Observation:
    """What was seen of one tensor: the range, and for some observers a histogram over [-width, width).

    ``counts`` is (BINS,), int64, or empty; ``width`` a power of two, 0 before the first value; ``left_out`` counts the
    batches with a NaN or an infinity, which the range does not follow.
    """

    low: Tensor
    high: Tensor
    counts: Tensor
    width: Tensor
    left_out: Tensor

    @classmethod
    def unseen(cls, scheme: ActivationScheme, device: torch.device | str | None = None) -> Observation:
        """Nothing seen yet."""
        bins = BINS if scheme.observer in SOLVERS else 0
        counts = torch.zeros(bins, dtype=torch.int64, device=device)
        nothing = torch.zeros((), dtype=torch.int64, device=device)
        return cls(*unseen_range(device=device), counts, torch.zeros((), device=device), nothing)

    @property
    def seen(self) -> bool:
        """Whether any value was."""
        return bool(self.low <= self.high)

    @property
    def spoiled(self) -> bool:
        """Whether a NaN or an infinity was among the values."""
        return bool(self.left_out > 0)

    def observe(self, x: Tensor, scheme: ActivationScheme) -> None:
        """Take in the values of a tensor that is not empty."""
        low, high = extremes_of_all(*extremes(x))
        finite = torch.isfinite(low) & torch.isfinite(high)
        self.left_out.add_(~finite)
        low, high = (
            torch.where(finite, low, self.low.to(low.dtype)),
            torch.where(finite, high, self.high.to(high.dtype)),
        )
        FOLLOWERS.get(scheme.observer, minmax_)(self.low, self.high, low, high)
        if scheme.observer in SOLVERS:
            count_(self.counts, self.width, x, torch.maximum(low.neg(), high))

    def parameters(self, scheme: ActivationScheme) -> tuple[Tensor, Tensor]:
        """Scale and zero point of the extremes, as they are now: 0-d."""
        return affine_parameters(self.low, self.high, scheme)

    def solved(self, scheme: ActivationScheme) -> tuple[Tensor, Tensor]:
        """Scale and zero point by the scheme's observer, from everything that all processes saw: 0-d."""
        if scheme.observer not in SOLVERS or not self.seen:
            return self.parameters(scheme)
        low, high = SOLVERS[scheme.observer](self.counts, self.width, scheme)
        low, high = low.to(self.low.dtype), high.to(self.high.dtype)
        return affine_parameters(torch.maximum(low, self.low), torch.minimum(high, self.high), scheme)


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


FOLLOWERS: Mapping[str, GradientTransfer] = {"minmax": minmax_, "moving_average": moving_average_}
