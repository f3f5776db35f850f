"""`movement_pruning`: weights that training moves towards zero become zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.gradual_pruning import GradualPruning
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched

__all__ = ["MovementCriterion", "MovementPruning", "movement_step"]


class MovementPruning(GradualPruning):
    """Movement pruning (Sanh et al., 2020, arXiv:2005.07683): weights that move towards zero go, whatever their size.

    A weight is worth the sum over the steps of -w x dL/dw since the window opened (equation 3, the learning rate left
    out): positive where training moves it away from zero. Made for fine-tuning, where magnitudes are the pretraining's.
    Gradients of pruned weights count too, with the value that the weight had when it was pruned; as its worth rises
    it comes back with that value (the straight-through estimator of the paper). Besides the masks it needs
    two tensors in the weights' size. The weights are those after each step, masks applied.
    """

    example: ClassVar = {"final_sparsity": 0.5}
    needs_training: ClassVar = True

    type: Literal["movement_pruning"] = "movement_pruning"

    @property
    def ranking(self) -> Criterion:
        return MovementCriterion()

    @property
    def calibrates(self) -> bool:
        return False


@dataclass(frozen=True)
class MovementCriterion(Criterion):
    """The sum of -w x dL/dw over the steps."""

    needs: ClassVar = "gradients"
    regrows: ClassVar = True

    def observe(self, weights: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor], watched: Watched) -> None:
        for name, gradient in gradients.items():
            weight = weights[name]
            whole = weight.detach()
            if weight in watched.values:  # pruned weights are zero now, and count as what they were
                whole = torch.where(whole == 0, watched.values[weight].to(whole), whole)
            step = movement_step(whole, gradient)
            watched.statistics[weight] = step if weight not in watched.statistics else watched.statistics[weight] + step

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        known = watched.statistics
        return {name: known[weight] for name, weight in weights.items() if weight in known}


def movement_step(weight: Tensor, gradient: Tensor) -> Tensor:
    """-w x dL/dw of one step, float32 or wider.

    >>> movement_step(torch.tensor([2.0, -2.0]), torch.tensor([1.0, 1.0]))
    tensor([-2.,  2.])
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    return -weight.detach().to(wide) * gradient.detach().to(wide)
