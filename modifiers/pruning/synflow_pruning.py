"""`synflow_pruning`: weights on thin paths through the network become zero, without any data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from paredown.framework.errors import ScheduleError, TargetError
from paredown.framework.model.forward import call
from paredown.framework.model.graph.fusion import tensors_of
from paredown.framework.model.links import without_links
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.gradual_pruning import GradualPruning
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched

__all__ = ["SynflowCriterion", "SynflowPruning"]


class SynflowPruning(GradualPruning):
    """SynFlow (Tanaka et al., 2020, arXiv:2006.05467): the synaptic flow through a weight, without data.

    In a copy of the model in float64, with every parameter and buffer at its absolute value and an input of ones, R is
    the sum of the outputs and a weight is worth abs(dR/dw x w) (equation 1). What is to go goes in ``rounds`` rounds,
    each taking the same share of what is left (algorithm 1): that is what keeps a layer from being removed whole. Needs
    ``example_inputs``; inputs that are integers are taken as they are.
    """

    example: ClassVar = {"final_sparsity": 0.5, "curve": "constant", "end": "1 steps", "rounds": 3}

    type: Literal["synflow_pruning"] = "synflow_pruning"
    rounds: Annotated[int, Strict(), Field(ge=1)] = 100
    """Rounds of an update."""

    def update_rounds(self, training: Training) -> int:
        return self.rounds

    @property
    def ranking(self) -> Criterion:
        return SynflowCriterion()


@dataclass(frozen=True)
class SynflowCriterion(Criterion):
    """abs(dR/dw x w)."""

    needs: ClassVar = "model"

    def check(self, training: Training) -> None:
        super().check(training)
        if training.data.example_inputs is None:
            raise ScheduleError(f"{training.label} needs the shape of the inputs: give example_inputs=")

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        twin = _positive_copy(training.model)
        copies = dict(twin.named_parameters(remove_duplicate=False))
        asked = [copies[name] for name in weights]
        inputs = tree_map(_ones, training.data.example_inputs)
        outputs = tensors_of(call(twin, inputs, None))
        flow = torch.stack([output.sum() for output in outputs if output.is_floating_point()]).sum()
        if not bool(torch.isfinite(flow)):
            raise TargetError(f"{training.name}: the flow through the model is not finite: synflow cannot weigh it")
        gradients = torch.autograd.grad(flow, asked, materialize_grads=True)
        return {
            name: (gradient * twin_weight.detach()).abs().to(weights[name].device)
            for name, twin_weight, gradient in zip(weights, asked, gradients, strict=True)
        }


def _ones(value: Any) -> Any:
    """One sample of ones in place of floating-point inputs."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.ones_like(value[:1] if value.dim() else value, dtype=torch.float64)
    return value


def _positive_copy(model: nn.Module) -> nn.Module:
    """The model in eval mode and float64, every finite number in it at its absolute value."""
    with without_links(model):
        twin = copy.deepcopy(model).double().eval()
    for each in (*twin.parameters(), *twin.buffers()):
        if each.is_floating_point():
            each.data.copy_(torch.where(torch.isfinite(each), each.abs(), each))
            each.requires_grad_(isinstance(each, nn.Parameter))
    return twin
