"""`taylor_pruning`: weights whose removal costs the loss least, to first order, become zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.gradual_pruning import GradualPruning
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched

__all__ = ["TaylorCriterion", "TaylorPruning", "taylor_scores"]


class TaylorPruning(GradualPruning):
    """Taylor pruning (Molchanov et al., 2019, arXiv:1906.10771): the squared first-order change of the loss.

    A weight is worth (w x dL/dw)^2, the squared change of the loss to first order if it became zero (equation 8), the
    mean over the steps since the last update. Blocks, kernels and channels are worth the mean of their weights.
    Without training the gradients are those of the loss on ``data``.
    """

    example: ClassVar = {"final_sparsity": 0.5}

    type: Literal["taylor_pruning"] = "taylor_pruning"

    @property
    def ranking(self) -> Criterion:
        return TaylorCriterion()


@dataclass(frozen=True)
class TaylorCriterion(Criterion):
    """(w x dL/dw)^2, the mean over steps."""

    needs: ClassVar = "gradients"

    def observe(self, weights: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor], watched: Watched) -> None:
        for name, gradient in gradients.items():
            weight = weights[name]
            scores = taylor_scores(weight, gradient)
            known = watched.statistics
            known[weight] = known[weight].add_(scores) if weight in known else scores

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        known = watched.statistics
        return {name: known[weight] / watched.count for name, weight in weights.items() if weight in known}

    def renew(self, weights: Mapping[str, nn.Parameter], watched: Watched) -> None:
        watched.stale = True


def taylor_scores(weight: Tensor, gradient: Tensor) -> Tensor:
    """(w x dL/dw)^2, float32 or wider.

    >>> taylor_scores(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 3.0]))
    tensor([4., 9.])
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (weight.detach().to(wide) * gradient.detach().to(wide)).square()
