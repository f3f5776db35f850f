"""`synflow_pruning`: weights on thin paths through the network become zero, without any data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from paredown.framework.calling import call, evaluating
from paredown.framework.errors import ScheduleError
from paredown.framework.graph import tensors_of
from paredown.framework.managed import without_links
from paredown.framework.modifier import Modifier
from paredown.framework.training import Training
from paredown.modifiers.pruning.criterion import Criterion, Watched
from paredown.modifiers.pruning.gradual_pruning import GradualPruning

__all__ = ["SynflowCriterion", "SynflowPruning"]


class SynflowPruning(GradualPruning):
    """SynFlow (Tanaka et al., 2020, arXiv:2006.05467): the synaptic flow through a weight, without data.

    With every parameter and buffer replaced by its absolute value and an input of ones, R is the sum of the outputs
    and a weight is worth abs(dR/dw x w) (equation 1). What is to go goes in ``rounds`` rounds, each taking the same
    share of what is left (algorithm 1): that is what keeps a layer from being removed whole. Needs ``example_inputs``;
    inputs that are integers are taken as they are.
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

    def check(self, training: Training) -> None:
        super().check(training)
        if training.example_inputs is None:
            raise ScheduleError(f"{self.name} needs the shape of the inputs: give example_inputs=")


@dataclass(frozen=True)
class SynflowCriterion(Criterion):
    """abs(dR/dw x w)."""

    jointly: ClassVar = True

    def weigh(
        self, training: Training, modifier: Modifier, weights: Mapping[str, nn.Parameter], watched: Watched
    ) -> dict[str, Tensor]:
        if training.example_inputs is None:
            raise ScheduleError(f"{modifier.name} needs the shape of the inputs: give example_inputs=")
        asked = list(weights.values())
        inputs = tree_map(partial(_ones, asked[0].dtype), training.example_inputs)
        with _all_positive(training.model), without_links(training.model), evaluating(training.model):
            flags = [weight.requires_grad for weight in asked]
            with torch.enable_grad():
                for weight in asked:
                    weight.requires_grad_(True)
                outputs = tensors_of(call(training.model, inputs, None))
                flow = torch.stack([output.sum() for output in outputs if output.is_floating_point()]).sum()
                gradients = torch.autograd.grad(flow, asked, materialize_grads=True)
            for weight, flag in zip(asked, flags, strict=True):
                weight.requires_grad_(flag)
        return {
            name: (gradient * weight.detach()).abs().to(torch.promote_types(weight.dtype, torch.float32))
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }


def _ones(dtype: torch.dtype, value: Any) -> Any:
    """One sample of ones in place of floating-point inputs."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.ones_like(value[:1] if value.dim() else value, dtype=dtype)
    return value


@contextmanager
def _all_positive(model: nn.Module) -> Iterator[None]:
    """Every floating-point parameter and buffer at its absolute value."""
    tensors = [each for each in (*model.parameters(), *model.buffers()) if each.is_floating_point()]
    kept = [each.detach().clone() for each in tensors]
    try:
        with torch.no_grad():
            for each in tensors:
                each.abs_()
        yield
    finally:
        with torch.no_grad():
            for each, value in zip(tensors, kept, strict=True):
                each.copy_(value)
