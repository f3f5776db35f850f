"""`snip_pruning`: connections that hardly change the loss become zero, before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.gradual_pruning import GradualPruning
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched

__all__ = ["SnipCriterion", "SnipPruning"]


class SnipPruning(GradualPruning):
    """SNIP (Lee et al., 2018, arXiv:1810.02340): the sensitivity of the loss to a connection, at initialization.

    A weight is worth abs(w x dL/dw), the gradient that of all batches together (equation 4, up to the normalisation
    that all weights share). Given ``data`` and ``curve: constant`` it prunes at ``start``, before the first step; else
    the gradients are those of the window's steps.
    """

    example: ClassVar = {"final_sparsity": 0.5, "curve": "constant", "end": "1 steps"}

    type: Literal["snip_pruning"] = "snip_pruning"

    @property
    def ranking(self) -> Criterion:
        return SnipCriterion()


@dataclass(frozen=True)
class SnipCriterion(Criterion):
    """abs(w x sum of dL/dw)."""

    needs: ClassVar = "gradients"

    def observe(self, weights: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor], watched: Watched) -> None:
        known = watched.statistics
        for name, gradient in gradients.items():
            weight = weights[name]
            wide = gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32), copy=True)
            known[weight] = known[weight].add_(wide) if weight in known else wide

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        known = watched.statistics
        return {
            name: (known[weight] * weight.detach() / watched.count).abs()
            for name, weight in weights.items()
            if weight in known
        }

    def renew(self, weights: Mapping[str, nn.Parameter], watched: Watched) -> None:
        watched.stale = True
