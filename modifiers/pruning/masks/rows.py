"""A layer's weight as rows, one for each output, in which what competes lies side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paredown.modifiers.pruning.scoring.units import Pattern

__all__ = ["Goal", "RowPruning", "input_order", "prune_rows"]

#: how many weights are zero afterwards, or the pattern of neighbours in a row
Goal = int | Pattern
#: from rows (out, n), what is known of their inputs, and the goal, to new rows and what is pruned of them, bool
RowPruning = Callable[[Tensor, Tensor, Goal], tuple[Tensor, Tensor]]


def prune_rows(weight: Tensor, moments: Tensor, goal: Goal, method: RowPruning) -> tuple[Tensor, Tensor]:
    """A layer's new weight, and which of its elements stay, bool; both of the weight's shape.

    Args:
        weight: (out, in, kernel...).
        moments: of the n inputs that an output multiplies, (groups, n, n) or (groups, n).
        goal: with a pattern, M inputs follow each other along the input channels, at one place of the kernel.
        method: gets rows in the type of ``moments``.
    """
    rows = weight.detach().flatten(1)
    order = input_order(weight) if isinstance(goal, Pattern) else torch.arange(rows.shape[1], device=rows.device)
    moments = moments[:, order] if moments.dim() == 2 else moments[:, order[:, None], order]
    new, pruned = method(rows[:, order].to(moments.dtype), moments, goal)
    back = order.argsort()
    keep = ~pruned[:, back].reshape(weight.shape)
    return new[:, back].reshape(weight.shape).masked_fill(~keep, 0), keep


def input_order(weight: Tensor) -> Tensor:
    """The order of a row's columns in which the input channels at one place of the kernel follow each other.

    Args:
        weight: (out, in, kernel...); a row has in x kernel columns, those of one input side by side.

    >>> input_order(torch.zeros(1, 3, 2))
    tensor([0, 2, 4, 1, 3, 5])
    """
    count = weight[0].numel()
    return torch.arange(count, device=weight.device).view(weight.shape[1], -1).t().flatten()
