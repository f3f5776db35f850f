"""`grasp_pruning`: weights whose removal keeps gradients flowing become zero, before training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from paredown.framework.distributed.processes import mean_of_all
from paredown.framework.errors import TargetError
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.gradual_pruning import GradualPruning
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched
from paredown.modifiers.pruning.scoring.gradients import losses_on_data

__all__ = ["GraspCriterion", "GraspPruning"]


class GraspPruning(GradualPruning):
    """GraSP (Wang et al., 2020, arXiv:2002.07376): preserve the gradient flow, at initialization.

    A weight is worth w x (Hg), g the gradient and H the Hessian of the loss on ``data``: removing it changes the
    squared norm of the gradient by -2 w x (Hg) to first order (equations 7 and 8), so those go whose removal raises it
    most or lowers it least. Needs ``data`` whenever it acts, and second derivatives of the model.
    """

    example: ClassVar = {"final_sparsity": 0.5, "curve": "constant", "end": "1 steps"}

    type: Literal["grasp_pruning"] = "grasp_pruning"

    @property
    def ranking(self) -> Criterion:
        return GraspCriterion()


@dataclass(frozen=True)
class GraspCriterion(Criterion):
    """w x (Hg) on data."""

    needs: ClassVar = "data"

    @property
    def by_gradients(self) -> bool:
        return True

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        asked = [weight for weight in weights.values() if weight.requires_grad]
        gradients = [torch.zeros_like(weight) for weight in asked]
        batches = 0
        for loss in losses_on_data(training):
            found = torch.autograd.grad(loss, asked, materialize_grads=True)
            torch._foreach_add_(gradients, list(found))
            batches += 1
        gradients = list(mean_of_all([each / batches for each in gradients]))
        products = [torch.zeros_like(weight) for weight in asked]
        with _twice_differentiable(training):
            for loss in losses_on_data(training):
                found = torch.autograd.grad(loss, asked, create_graph=True, materialize_grads=True)
                flow = torch.stack([(one * other).sum() for one, other in zip(found, gradients, strict=True)]).sum()
                torch._foreach_add_(products, list(torch.autograd.grad(flow, asked, materialize_grads=True)))
        products = list(mean_of_all([each / batches for each in products]))
        scores = {
            id(weight): (weight.detach() * each).to(torch.promote_types(weight.dtype, torch.float32))
            for weight, each in zip(asked, products, strict=True)
        }
        return {name: scores[id(weight)] for name, weight in weights.items() if id(weight) in scores}


@contextmanager
def _twice_differentiable(training: Training) -> Iterator[None]:
    """Attention by plain products, since its fused kernels have no second derivative.

    Raises:
        TargetError: another operator of the model has none; names it.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        if "is not implemented" not in str(error) and "double backward" not in str(error).lower():
            raise
        raise TargetError(
            f"{training.label} needs second derivatives, and an operator of the model has none ({error}): take a "
            "criterion that needs first ones only (snip_pruning, taylor_pruning); nothing was pruned"
        ) from error
