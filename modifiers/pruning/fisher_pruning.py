"""`fisher_pruning`: weights that cost the loss least, to second order, become zero; the others compensate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.gradual_pruning import GradualPruning
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched

__all__ = ["FisherCriterion", "FisherPruning", "add_gradient_", "inverse_fisher", "saliencies", "weight_update"]


class FisherPruning(GradualPruning):
    """Optimal brain surgeon with a blockwise empirical Fisher matrix (WoodFisher: Singh & Alistarh, 2020,
    arXiv:2004.14340; oBERT: Kurtic et al., 2022, arXiv:2203.07259).

    The Hessian of the loss is taken to be F, the mean of g g^T over gradients g, in blocks of ``block_size`` weights
    that follow each other (oBERT's equation 6). A weight is worth w^2 / (2 [F^-1]_ww) (equation 3), and
    ``update_weights`` moves those that stay by -F^-1[:, P] (F^-1[P, P])^-1 w_P for what goes together in a block, P
    (equation 5).

    Gradients are those of the loop's steps since the last update, up to ``gradients`` of them; without training, those
    of the batches of ``data`` (small batches are better: each is one gradient). It needs ``block_size`` numbers a
    weight. The papers add a fixed number to the diagonal; here it is a share of its mean, as gradients of well-trained
    models are of any size.
    """

    example: ClassVar = {"final_sparsity": 0.5, "block_size": 10}

    type: Literal["fisher_pruning"] = "fisher_pruning"
    block_size: Annotated[int, Strict(), Field(ge=1)] = 50
    """Weights in a block of the matrix."""
    gradients: Annotated[int, Strict(), Field(ge=1)] = 256
    """How many gradients are taken in between updates, at most."""
    damping: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] = 0.01
    """What is added to the diagonal, as a share of its mean over the weight."""
    update_weights: bool = True
    """Whether the weights that stay make up for those that go."""
    rounds: Annotated[int, Strict(), Field(ge=1)] = 8
    """In how many rounds an update without training reaches its share, each with gradients of the model as it is."""

    def update_rounds(self, training: Training) -> int:
        return self.rounds if training.clock is None else 1

    @property
    def ranking(self) -> Criterion:
        return FisherCriterion(self.block_size, self.gradients, self.damping, self.update_weights)


@dataclass(frozen=True)
class FisherCriterion(Criterion):
    """w^2 / (2 [F^-1]_ww), with F in blocks. What it gathers of a weight are the sums of g g^T."""

    block_size: int = 50
    gradients: int = 256
    damping: float = 0.01
    update_weights: bool = True
    needs: ClassVar = "gradients"

    def observe(self, weights: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor], watched: Watched) -> None:
        if watched.count >= self.gradients:
            return
        for name, gradient in gradients.items():
            weight = weights[name]
            if weight not in watched.statistics:
                watched.statistics[weight] = _no_gradients(weight, self.block_size)
            add_gradient_(watched.statistics[weight], gradient)

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        known = watched.statistics
        return {
            name: saliencies(weight.detach(), self._inverse(known[weight], watched))
            for name, weight in weights.items()
            if weight in known
        }

    def compensate(self, weights: Mapping[str, nn.Parameter], pruned: Mapping[str, Tensor], watched: Watched) -> None:
        for name, weight in weights.items() if self.update_weights else ():
            if weight in watched.statistics:
                inverse = self._inverse(watched.statistics[weight], watched)
                weight.add_(weight_update(weight.detach(), pruned[name], inverse))

    def renew(self, weights: Mapping[str, nn.Parameter], watched: Watched) -> None:
        watched.stale = True

    def _inverse(self, sums: Tensor, watched: Watched) -> Tensor:
        return inverse_fisher(sums / min(watched.count, self.gradients), self.damping)


def add_gradient_(sums: Tensor, gradient: Tensor) -> None:
    """Add g g^T to blockwise sums, in place.

    Args:
        sums: (blocks, size, size).
        gradient: of any shape; its elements fill the blocks in order, the last one with zeros.
    """
    rows = _in_blocks(gradient, sums)
    sums.baddbmm_(rows.unsqueeze(2), rows.unsqueeze(1))


def inverse_fisher(blocks: Tensor, damping: float) -> Tensor:
    """The inverse of a blockwise matrix whose diagonal is raised by a share of its mean: (blocks, size, size).

    Where all gradients were 0 it is the unit matrix.
    """
    size = blocks.shape[1]
    unit = torch.eye(size, dtype=blocks.dtype, device=blocks.device)
    mean = blocks.diagonal(dim1=1, dim2=2).mean()
    if not bool(mean > torch.finfo(blocks.dtype).tiny):
        return unit.expand_as(blocks)
    inverse: Tensor = torch.linalg.inv(blocks / mean + damping * unit)
    return inverse / mean


def saliencies(weight: Tensor, inverse: Tensor) -> Tensor:
    """w^2 / (2 [F^-1]_ww), in the weight's shape: what the loss rises by, the other weights of the block making up."""
    diagonal = inverse.diagonal(dim1=1, dim2=2)
    scores = _in_blocks(weight, inverse).square() / (2 * diagonal)
    return scores.flatten()[: weight.numel()].view(weight.shape)


def weight_update(weight: Tensor, pruned: Tensor, inverse: Tensor) -> Tensor:
    """What to add to a weight so that it is zero where ``pruned`` is True at the least rise of the loss.

    Args:
        weight: of any shape.
        pruned: bool, of the weight's shape.
        inverse: (blocks, size, size), the inverse of the Fisher matrix.
    """
    rows, marks = _in_blocks(weight, inverse), _in_blocks(pruned, inverse) > 0
    both = marks.unsqueeze(1) & marks.unsqueeze(2)
    system = torch.where(both, inverse, torch.eye(inverse.shape[1], dtype=inverse.dtype, device=inverse.device))
    multipliers = torch.linalg.solve(system, torch.where(marks, rows, torch.zeros_like(rows)).unsqueeze(2))
    update = -torch.bmm(inverse, multipliers).squeeze(2)
    return update.flatten()[: weight.numel()].view(weight.shape).to(weight.dtype)


def _no_gradients(weight: Tensor, size: int) -> Tensor:
    size = min(size, weight.numel())
    wide = torch.promote_types(weight.dtype, torch.float32)
    return torch.zeros(-(-weight.numel() // size), size, size, dtype=wide, device=weight.device)


def _in_blocks(tensor: Tensor, inverse: Tensor) -> Tensor:
    flat = tensor.detach().flatten().to(inverse.dtype)
    padded = nn.functional.pad(flat, (0, inverse.shape[0] * inverse.shape[1] - flat.numel()))
    return padded.view(inverse.shape[:2])
