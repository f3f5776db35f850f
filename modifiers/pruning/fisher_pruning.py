"""`fisher_pruning`: what costs the loss least to second order becomes zero, and the others make up for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.modifier import Modifier
from paredown.framework.training import Training
from paredown.modifiers.pruning.criterion import Criterion, Watched
from paredown.modifiers.pruning.gradual_pruning import GradualPruning

__all__ = ["FisherCriterion", "FisherPruning", "add_gradient_", "saliencies", "weight_update"]


class FisherPruning(GradualPruning):
    """Optimal brain surgeon with a blockwise empirical Fisher matrix (WoodFisher: Singh & Alistarh, 2020,
    arXiv:2004.14340; oBERT: Kurtic et al., 2022, arXiv:2203.07259).

    The Hessian of the loss is taken to be F = dampening x I + mean of g g^T over gradients g, in blocks of
    ``block_size`` weights that follow each other; its inverse is kept up to date gradient by gradient (Woodbury,
    oBERT's equation 6). A weight is worth w^2 / (2 [F^-1]_ww) (equation 3), and ``update_weights`` moves those that
    stay by -F^-1[:, P] (F^-1[P, P])^-1 w_P for what goes together in a block, P (equation 5).

    Gradients are those of the loop's steps since the last update, up to ``gradients`` of them; without training, those
    of the batches of ``data`` (small batches are better: each is one gradient). It needs ``block_size`` numbers a
    weight.
    """

    example: ClassVar = {"final_sparsity": 0.5, "block_size": 10}

    type: Literal["fisher_pruning"] = "fisher_pruning"
    block_size: Annotated[int, Strict(), Field(ge=1)] = 50
    """Weights in a block of the matrix."""
    gradients: Annotated[int, Strict(), Field(ge=1)] = 256
    """How many gradients are taken in between updates, at most."""
    dampening: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] = 1e-7
    """What is added to the diagonal."""
    update_weights: bool = True
    """Whether the weights that stay make up for those that go."""

    @property
    def ranking(self) -> Criterion:
        return FisherCriterion(self.block_size, self.gradients, self.dampening, self.update_weights)


@dataclass(frozen=True)
class FisherCriterion(Criterion):
    """w^2 / (2 [F^-1]_ww), with F in blocks."""

    block_size: int = 50
    gradients: int = 256
    dampening: float = 1e-7
    update_weights: bool = True
    watches: ClassVar = True

    def observe(self, weights: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor], watched: Watched) -> None:
        if watched.count >= self.gradients:
            return
        for name, gradient in gradients.items():
            weight = weights[name]
            if weight not in watched.statistics:
                watched.statistics[weight] = _first_inverse(weight, self.block_size, self.dampening)
            add_gradient_(watched.statistics[weight], gradient, self.gradients)

    def weigh(
        self, training: Training, modifier: Modifier, weights: Mapping[str, nn.Parameter], watched: Watched
    ) -> dict[str, Tensor]:
        known = watched.statistics
        return {
            name: saliencies(weight.detach(), known[weight])
            if weight in known
            else torch.zeros_like(weight, dtype=torch.float32)
            for name, weight in weights.items()
        }

    def compensate(self, weights: Mapping[str, nn.Parameter], pruned: Mapping[str, Tensor], watched: Watched) -> None:
        for name, weight in weights.items() if self.update_weights else ():
            if weight in watched.statistics:
                weight.add_(weight_update(weight.detach(), pruned[name], watched.statistics[weight]))

    def renew(self, weights: Mapping[str, nn.Parameter], watched: Watched) -> None:
        watched.statistics.clear()
        watched.count = 0


def add_gradient_(inverse: Tensor, gradient: Tensor, total: int) -> None:
    """Take one gradient into a blockwise inverse Fisher matrix, in place (Sherman-Morrison).

    Args:
        inverse: (blocks, size, size).
        gradient: of any shape; its elements fill the blocks in order, the last one with zeros.
        total: how many gradients the mean is over.
    """
    rows = _in_blocks(gradient, inverse)
    product = torch.bmm(inverse, rows.unsqueeze(2))
    denominator = total + torch.bmm(rows.unsqueeze(1), product)
    inverse.baddbmm_(product / denominator, product.transpose(1, 2), alpha=-1)


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


def _first_inverse(weight: Tensor, size: int, dampening: float) -> Tensor:
    size = min(size, weight.numel())
    blocks = -(-weight.numel() // size)
    wide = torch.promote_types(weight.dtype, torch.float32)
    return torch.eye(size, dtype=wide, device=weight.device).div_(dampening).repeat(blocks, 1, 1)


def _in_blocks(tensor: Tensor, inverse: Tensor) -> Tensor:
    flat = tensor.detach().flatten().to(inverse.dtype)
    padded = nn.functional.pad(flat, (0, inverse.shape[0] * inverse.shape[1] - flat.numel()))
    return padded.view(inverse.shape[:2])
