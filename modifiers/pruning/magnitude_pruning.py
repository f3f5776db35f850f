"""`magnitude_pruning`: the weights of smallest absolute value become zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.modifier.proposals import Proposal
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.gradual_pruning import GradualPruning
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched

__all__ = ["MagnitudeCriterion", "MagnitudePruning", "magnitude_scores"]

Norm = Literal["l1", "l2"]


class MagnitudePruning(GradualPruning):
    """Gradual magnitude pruning: the weights of smallest absolute value become zero, and stay zero.

    The share of zeros moves along ``curve`` over the window, cubic by default (Zhu & Gupta, 2017, arXiv:1710.01878,
    equation 1), and reaches ``final_sparsity`` exactly: of n weights, floor(share x n + 1/2) are zero, ties broken by
    index. Zeros are kept in place: names and shapes in ``state_dict()`` do not change, and pruned weights are zero
    again after every optimizer step, momentum and weight decay notwithstanding.

    ``scope: global`` ranks all target weights together, so that layers which can spare more lose more;
    ``scope: local`` takes the same share from each layer. Blocks, kernels and channels are ranked by their mean
    absolute or squared weight (Li et al., 2016, arXiv:1608.08710), so that their size does not count.
    """

    example: ClassVar = {"final_sparsity": 0.5}

    proposals: ClassVar = tuple(
        Proposal("zeros", f"{share:.0%} of the weights zero", {"final_sparsity": share}, healed=0.05)
        for share in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
    )

    type: Literal["magnitude_pruning"] = "magnitude_pruning"
    norm: Norm = "l2"
    """What a block, kernel or channel is ranked by: the mean of absolute values (``l1``) or of squares (``l2``)."""

    @property
    def ranking(self) -> Criterion:
        single = self.unit.single and self.scope not in ("lamp", "owl")
        return MagnitudeCriterion("l1" if single else self.norm)  # the same order, and no square that overflows

    def unused_fields(self) -> list[str]:
        idle = self.unit.single and self.scope not in ("lamp", "owl")
        own = ["norm"] if idle and "norm" in self.model_fields_set else []
        return [*super().unused_fields(), *own]


@dataclass(frozen=True)
class MagnitudeCriterion(Criterion):
    """Absolute values, or their squares."""

    norm: Norm = "l2"
    by_magnitude: ClassVar = True
    relative: ClassVar = True

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        return {name: magnitude_scores(weight, self.norm) for name, weight in weights.items()}


def magnitude_scores(weight: Tensor, norm: Norm = "l2") -> Tensor:
    """Absolute values (``l1``) or squares (``l2``) of a weight, float32 or wider.

    >>> magnitude_scores(torch.tensor([-2.0, 1.0]))
    tensor([4., 1.])
    """
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    return wide.abs() if norm == "l1" else wide.square()
