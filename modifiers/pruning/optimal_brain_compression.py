"""`optimal_brain_compression`: weights removed one by one, each time the one whose removal costs least."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.calibration.second_moments import inverse_moments
from paredown.framework.model.weights import weight_rows
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.rows import Goal
from paredown.modifiers.pruning.scoring.units import Pattern
from paredown.modifiers.pruning.selection.select import smallest
from paredown.modifiers.pruning.streamed.base import Damping, StreamedPruning
from paredown.modifiers.pruning.streamed.least_squares import refitted

__all__ = ["OptimalBrainCompression", "optimal_brain_rows", "removal_traces"]

#: elements of the inverses that are updated together
BATCH = 1 << 21
#: in how many parts of a trace the columns that are gone are dropped
PARTS = 8


class OptimalBrainCompression(StreamedPruning):
    """Optimal Brain Compression (Frantar & Alistarh, 2022, arXiv:2208.11580, ExactOBS): exact greedy one-shot pruning.

    In each output's row the weight goes whose removal costs least, w_p^2 / [H^-1]_pp, the others of the row make up for
    it, the inverse loses the column, and so on to the last weight (section 4 of the paper). The losses that were noted
    then say how many go in which row, over the whole layer; what stays is updated by least squares. With N:M, rows are
    independent, and a group of M gives up no more than M - N.

    Nearer to the layer's outputs than `sparsegpt`, at rows x columns^3 operations: for convolutional nets and small
    layers. Layers with more than ``most_columns`` weights an output, and those whose weight is tied to another, are
    left alone. Zeros that are there stay and count.
    """

    example: ClassVar = {"final_sparsity": 0.5}
    way: ClassVar = "one by one, those that are missed least"

    type: Literal["optimal_brain_compression"] = "optimal_brain_compression"
    damping: Damping = 0.01
    """What is added to the diagonal of the second moments, as a share of its mean."""
    most_columns: Annotated[int, Strict(), Field(ge=1)] = 4608
    """Weights an output up to which a layer is pruned: 512 channels x 3 x 3 by default, about an
    hour on one core."""

    def refusal(self, training: Training, name: str, module: nn.Module) -> str | None:
        reason = super().refusal(training, name, module)
        columns = 0 if reason else weight_rows(module)[0].numel()
        if columns > self.most_columns:
            return f"{columns} weights an output are more than most_columns, {self.most_columns}: use sparsegpt for it"
        return reason

    def pruned_rows(self, rows: Tensor, moments: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        return optimal_brain_rows(rows, moments, goal, self.damping)


def optimal_brain_rows(rows: Tensor, moments: Tensor, goal: Goal, damping: float = 0.01) -> tuple[Tensor, Tensor]:
    """ExactOBS on a weight: its new values, and what is pruned of them, bool; both (out, n).

    Args:
        rows: (out, n), floating point; zeros stay zero.
        moments: (groups, n, n), the inputs' second moments; the rows of a group follow each other.
        goal: number of zeros, or N:M.
        damping: share of the mean diagonal that is added to it.
    """
    inverses = torch.stack([inverse_moments(each, damping) for each in moments])
    pattern = goal if isinstance(goal, Pattern) else None
    order, losses = removal_traces(rows.to(moments.dtype), inverses, pattern)
    zero = rows == 0
    if isinstance(goal, Pattern):
        in_group = zero.view(len(rows), -1, goal.of).sum(2).clamp_(min=goal.of - goal.kept)
        goes = torch.arange(rows.shape[1], device=rows.device) < in_group.sum(1)[:, None]
    else:
        goes = smallest([losses.cummax(1).values], max(goal, int(zero.sum())), order="value")[0]
    pruned = torch.zeros_like(zero).scatter_(1, order, goes)
    return refitted(rows, pruned, moments, damping), pruned


def removal_traces(rows: Tensor, inverses: Tensor, pattern: Pattern | None = None) -> tuple[Tensor, Tensor]:
    """The order in which each row loses its weights, and the loss w_p^2 / [H^-1]_pp of each removal; both (out, n).

    Weights that are zero come first, with a loss of -1. With a pattern, those that have to stay come last.

    Args:
        rows: (out, n).
        inverses: (groups, n, n), of the inputs' second moments.
        pattern: N:M, of neighbours in a row.
    """
    n, share = rows.shape[1], len(rows) // len(inverses)
    batch = max(1, BATCH // n**2)
    group = torch.arange(len(rows), device=rows.device).div(share, rounding_mode="floor")
    traces = [
        _Elimination(part, inverses[own], pattern).run()
        for part, own in zip(torch.split(rows, batch), torch.split(group, batch), strict=True)
    ]
    return torch.cat([order for order, _ in traces]), torch.cat([losses for _, losses in traces])


class _Elimination:
    """Rows that lose one weight each at every step, with an inverse for each row."""

    def __init__(self, rows: Tensor, inverses: Tensor, pattern: Pattern | None) -> None:
        self.rows, self.inverses = rows.clone(), inverses.clone()
        self.columns = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape)
        self.zero = rows == 0
        self.gone = torch.zeros_like(self.zero)
        self.pattern = pattern
        self.in_group = rows.new_zeros(len(rows), 0 if pattern is None else rows.shape[1] // pattern.of)

    def run(self) -> tuple[Tensor, Tensor]:
        """Order and losses, (rows, n)."""
        found = []
        total = self.rows.shape[1]
        for step in range(total):
            if step and step % max(1, total // PARTS) == 0:
                self._drop()
            found.append(self._remove())
        return torch.stack([column for column, _ in found], 1), torch.stack([loss for _, loss in found], 1)

    def _remove(self) -> tuple[Tensor, Tensor]:
        diagonal = self.inverses.diagonal(dim1=1, dim2=2)
        scores = self.rows.square().div_(diagonal).masked_fill_(self.zero, -1)
        if self.pattern is not None:
            scores += self._complete() * (scores.new_tensor(torch.finfo(scores.dtype).max) / 4)
        place = scores.masked_fill_(self.gone, torch.inf).argmin(1, keepdim=True)
        column = self.columns.gather(1, place)
        line = self.inverses.gather(1, place[:, :, None].expand(-1, 1, self.rows.shape[1]))[:, 0]
        scaled = line / line.gather(1, place)
        self.rows.addcmul_(scaled, self.rows.gather(1, place), value=-1)
        self.inverses.addcmul_(line[:, :, None], scaled[:, None, :], value=-1)
        self.gone.scatter_(1, place, True)
        if self.pattern is not None:
            self.in_group.scatter_add_(1, column // self.pattern.of, torch.ones_like(line[:, :1]))
        return column[:, 0], scores.gather(1, place)[:, 0]

    def _complete(self) -> Tensor:
        """Which columns' groups have given up what they give; zeros that are there always go."""
        assert self.pattern is not None
        full = self.in_group >= self.pattern.of - self.pattern.kept
        return full.gather(1, self.columns // self.pattern.of) & ~self.zero

    def _drop(self) -> None:
        """Leave out the columns that are gone, equally many in each row."""
        left = (~self.gone).nonzero()[:, 1].view(len(self.rows), -1)
        self.rows, self.columns = self.rows.gather(1, left), self.columns.gather(1, left)
        self.zero, self.gone = self.zero.gather(1, left), self.gone.gather(1, left)
        batch = torch.arange(len(left), device=left.device)[:, None, None]
        self.inverses = self.inverses[batch, left[:, :, None], left[:, None, :]]
