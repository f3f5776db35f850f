"""`equalization`: the ranges of neighbouring layers' channels are made alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paredown.framework.errors import TargetError
from paredown.framework.model.graph.fusion import Graph, Scaling, batch_norms_after, scalings
from paredown.framework.model.kinds import CONVOLUTIONS, LINEAR
from paredown.framework.model.targets import named_modules, named_parameters
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.factor_movement import FactorMovement
from paredown.modifiers.quantization.layers.moved_scales import geometric, move_scale_

__all__ = ["Equalization", "equalizing"]

#: sweeps end when no factor is farther than this from 1
CONVERGED = 1e-3


class Equalization(FactorMovement):
    """Cross-layer equalization (Nagel et al., 2019, arXiv:1906.04721): one scale for a weight that all channels use.

    Where a channel's weights are much smaller than another's, a scale for the whole weight leaves them few values.
    Between two layers with a rectifier in between (and pooling, batch-norm), a factor can move from the first one's
    output channel into the second one's input without changing what they compute; s = sqrt(r1 / r2) makes the ranges
    r1 and r2 of the two alike (Eq. 11). Chains are swept until nothing moves. It acts once, at ``start``, and needs no
    data; weights ``per tensor`` gain most from it, those per channel little. Batch-norms take the factor in place of
    the convolution before them.
    """

    example: ClassVar = {}
    kinds: ClassVar = (*LINEAR, *CONVOLUTIONS)

    type: Literal["equalization"] = "equalization"
    sweeps: Annotated[int, Strict(), Field(ge=1)] = 20
    """Most passes over all pairs."""

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        try:
            places = scalings(self._graph(training), list(training.targets()), homogeneous=True)
        except TargetError as error:
            return [Foreseen(name, str(error), refused=True) for name in training.targets()]
        moved = {name: place for place in places for name, _ in place.after}
        alone = "no layer before it can take the factor"
        return [
            Foreseen(name, f"equalized with {moved[name].before[0][0].rpartition('.')[0]}")
            if name in moved
            else Foreseen(name, alone, refused=True)
            for name in training.targets()
        ]

    def on_update(self, training: Training, state: None) -> None:
        graph = self._graph(training)
        places = scalings(graph, list(training.targets()), homogeneous=True)
        convolutions = {norm: conv for conv, norm in batch_norms_after(graph).items()}
        for _ in range(self.sweeps):
            farthest = 0.0
            for place in places:
                s = equalizing(training.model, place, convolutions)
                move_scale_(training.model, place, s)
                farthest = max(farthest, float((s - 1).abs().max()))
            if farthest < CONVERGED:
                break
        training.record("equalize", places=len(places))

    def _graph(self, training: Training) -> Graph:
        graph = training.data.graph()
        if graph is None:
            raise TargetError(f"{self.name}: give example_inputs, so that the model's graph can be traced")
        return graph


def equalizing(model: nn.Module, place: Scaling, convolutions: Mapping[str, str]) -> Tensor:
    """The factor of each channel, (channels,): sqrt(r1 / r2), 1 where a range is 0.

    Args:
        convolutions: for a batch-norm the convolution before it, by name.
    """
    first = _ranges_before(model, place, convolutions)
    modules = named_modules(model)
    second = [_ranges(modules[name].get_parameter("weight"), dimension) for name, dimension in place.after]
    return geometric(first, torch.stack(second).amax(0), 0.5)


def _ranges_before(model: nn.Module, place: Scaling, convolutions: Mapping[str, str]) -> Tensor:
    """The range of each output channel; of a convolution before a batch-norm the folded one."""
    name, dimension = place.before[0]
    owner = name.rpartition(".")[0]
    modules = named_modules(model)
    norm = modules[owner]
    if not isinstance(norm, _BatchNorm):
        return _ranges(named_parameters(model)[name], dimension)
    folded = norm.weight.detach().abs()
    if owner in convolutions and norm.running_var is not None:
        weight = modules[convolutions[owner]].get_parameter("weight")
        folded = folded * (norm.running_var + norm.eps).rsqrt() * _ranges(weight, 0)
    return folded


def _ranges(weight: Tensor, dimension: int) -> Tensor:
    return weight.detach().abs().movedim(dimension, 0).flatten(1).amax(1)
