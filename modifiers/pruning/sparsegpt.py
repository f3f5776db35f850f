"""`sparsegpt`: weights removed one column at a time, while the rest of the row compensates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor

from paredown.framework.calibration.second_moments import inverse_factor
from paredown.framework.modifier.proposals import Proposal
from paredown.modifiers.pruning.masks.rows import Goal
from paredown.modifiers.pruning.scoring.units import Pattern
from paredown.modifiers.pruning.selection.chunks import shared_out
from paredown.modifiers.pruning.selection.select import smallest
from paredown.modifiers.pruning.streamed.base import Damping, StreamedPruning
from paredown.modifiers.pruning.streamed.least_squares import refitted

__all__ = ["SparseGPT", "sparsegpt_rows"]

#: from the scores of some columns, (columns, rows), and the number of their block, to what goes
Choice = Callable[[Tensor, int], Tensor]


class SparseGPT(StreamedPruning):
    """SparseGPT (Frantar & Alistarh, 2023, arXiv:2301.00774): one-shot pruning that keeps what a layer gives out.

    The weights of a layer are gone through one input after the other; what each removed weight gave is spread over the
    inputs that are still to come, by the inverse of the inputs' second moments (algorithm 1 of the paper). Which
    weights go is decided for ``block_size`` inputs at a time, over all outputs, by w^2 / [H^-1]_cc as the weights are
    by then; with N:M for every M inputs and each output. The model runs block by block, each on what the pruned blocks
    before it give out, so that the memory is that of one block.

    Of a layer's n weights exactly floor(share x n + 1/2) are zero: the count is shared out over the blocks in
    proportion to their size, so that the first k of them together have their share to the half weight. Zeros that are
    there stay and count. Inputs that are always zero go first. Layers whose weight is tied to another are left alone.
    """

    example: ClassVar = {"final_sparsity": 0.5}
    way: ClassVar = "the others of the row make up for them"

    proposals: ClassVar = tuple(
        Proposal("zeros", f"{share:.0%} of the weights zero, the others refitted", {"final_sparsity": share},
                 trained=False)
        for share in (0.3, 0.5, 0.6, 0.7, 0.8)
    )  # fmt: skip

    type: Literal["sparsegpt"] = "sparsegpt"
    block_size: Annotated[int, Strict(), Field(ge=1)] = 128
    """Inputs among which weights compete; with N:M it only sets how many columns are updated at once."""
    damping: Damping = 0.01
    """What is added to the diagonal of the second moments, as a share of its mean."""
    update_weights: bool = False
    """Solve again for the weights that stay, by least squares, once all zeros are known: nearer to what the layer
    gave than what the sweep leaves. Costs a system of the size of what stays, for each output."""

    def pruned_rows(self, rows: Tensor, moments: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        new, pruned = sparsegpt_rows(rows, moments, goal, self.block_size, self.damping)
        return refitted(rows, pruned, moments, self.damping) if self.update_weights else new, pruned


def sparsegpt_rows(
    rows: Tensor, moments: Tensor, goal: Goal, block_size: int = 128, damping: float = 0.01
) -> tuple[Tensor, Tensor]:
    """SparseGPT on a weight: its new values, and what is pruned of them, bool; both (out, n).

    Args:
        rows: (out, n), floating point; zeros stay zero.
        moments: (groups, n, n), the inputs' second moments; the rows of a group follow each other.
        goal: number of zeros, or N:M.
        block_size: columns among which the selection is made; rounded up to a multiple of M.
        damping: share of the mean diagonal that is added to it.
    """
    groups = rows.chunk(len(moments))
    if isinstance(goal, Pattern):
        block_size += -block_size % goal.of
        choices: list[Choice] = [lambda scores, _: goal.removable(scores.t()).t()] * len(groups)
        step = goal.of
    else:
        counts = _counts(rows == 0, goal, len(moments), block_size)
        choices = [_choice_of(own) for own in counts.tolist()]
        step = block_size
    parts = [_one_group(*each, step, block_size, damping) for each in zip(groups, moments, choices, strict=True)]
    return torch.cat([new for new, _ in parts]), torch.cat([pruned for _, pruned in parts])


def _choice_of(counts: list[int]) -> Choice:
    return lambda scores, number: smallest([scores], counts[number], order="value")[0]


def _counts(zero: Tensor, total: int, groups: int, block_size: int) -> Tensor:
    """How many go in each group's blocks, (groups, blocks)."""
    by_block = torch.split(zero.view(groups, -1, zero.shape[1]), block_size, dim=2)
    least = torch.stack([part.sum((1, 2)) for part in by_block], 1)
    sizes = torch.tensor([part[0].numel() for part in by_block], device=zero.device).expand(groups, -1)
    total = max(total, int(least.sum()))
    return shared_out(total, sizes.flatten(), least.flatten()).view(groups, -1)


def _one_group(
    rows: Tensor, moments: Tensor, choice: Choice, step: int, block_size: int, damping: float
) -> tuple[Tensor, Tensor]:
    """Algorithm 1, transposed: a row of ``columns`` is an input of all output channels."""
    factor = inverse_factor(moments, damping)
    salience = factor.diagonal().square().reciprocal().masked_fill(moments.diagonal() <= 0, 0)[:, None]
    columns = rows.t().to(factor.dtype, copy=True).contiguous()
    pruned = columns == 0
    for number, start in enumerate(range(0, len(columns), block_size)):
        block = slice(start, start + block_size)
        errors, own = torch.zeros_like(columns[block]), factor[block, block]
        for place in range(len(errors)):
            at = start + place
            if place % step == 0:
                soon = slice(at, min(at + step, start + len(errors)))
                updated = columns[soon].addmm(own[:place, place : place + step].t(), errors[:place], alpha=-1)
                scores = updated.square_().mul_(salience[soon]).masked_fill_(pruned[soon], -1)
                pruned[soon] |= choice(scores, number)
            column = columns[at].addmv(errors[:place].t(), own[:place, place], alpha=-1)
            torch.div(column * pruned[at], own[place, place], out=errors[place])
            torch.mul(column, ~pruned[at], out=columns[at])
        columns[start + block_size :].addmm_(factor[block, start + block_size :].t(), errors, alpha=-1)
    return columns.t(), pruned.t()
