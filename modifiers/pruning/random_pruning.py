"""`random_pruning`: random weights become zero; the baseline that every criterion has to beat."""

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

__all__ = ["RandomCriterion", "RandomPruning"]


class RandomPruning(GradualPruning):
    """Random pruning: weights, blocks or channels go by chance, what went before first.

    The control in a comparison, and with ``scope: erk`` a strong start for training with a fixed sparse pattern (Liu
    et al., 2022, arXiv:2202.02643). The generator is the modifier's own, on the CPU, and saved with it.
    """

    example: ClassVar = {"final_sparsity": 0.5}

    type: Literal["random_pruning"] = "random_pruning"
    seed: Annotated[int, Strict(), Field(ge=0)] = 0
    """Of the random numbers."""

    @property
    def ranking(self) -> Criterion:
        return RandomCriterion(self.seed)


@dataclass(frozen=True)
class RandomCriterion(Criterion):
    """A random number."""

    seed: int = 0

    def start(self, training: Training, weights: Mapping[str, nn.Parameter]) -> Watched:
        return Watched(generator=torch.Generator().manual_seed(self.seed))

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        return {
            name: torch.rand(weight.shape, generator=watched.generator).to(weight.device)
            for name, weight in weights.items()
        }
