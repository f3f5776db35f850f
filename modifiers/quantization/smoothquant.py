"""`smoothquant`: outliers of activations moved into the weights, before both are quantized."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from paredown.framework.calibration.second_moments import refuse_not_finite_inputs
from paredown.framework.calibration.streaming import InputTaker
from paredown.framework.distributed.processes import extremes_of_all
from paredown.framework.errors import TargetError
from paredown.framework.model.graph.fusion import Scaling, scalings
from paredown.framework.model.kinds import LINEAR
from paredown.framework.model.targets import named_modules
from paredown.framework.model.weights import weight_rows
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.fields import Share
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.factor_movement import FactorMovement
from paredown.modifiers.quantization.layers.moved_scales import geometric, move_scale_
from paredown.modifiers.quantization.post_training import Samples

__all__ = ["Smoothquant", "smoothing"]


class Smoothquant(FactorMovement):
    """SmoothQuant (Xiao et al., 2022, arXiv:2211.10438): make activations easy to quantize at the weights' expense.

    A few channels of a transformer's activations are many times larger than the others, and one scale for all of them
    leaves the others few values. For every input channel j a factor s_j = max|X_j|^strength / max|W_j|^(1 - strength)
    (Eq. 4) moves from what makes the inputs (a normalisation, a layer) into the weights that read them. The model
    computes what it did. It acts once, at ``start``; put ``static_quantization`` or ``dynamic_quantization`` after it.

    Which factors can move is read off the model's graph, which needs ``example_inputs`` or ``data``; a layer whose
    input something else reads too is left alone, with the reason in the plan.
    """

    example: ClassVar = {}
    kinds: ClassVar = LINEAR

    type: Literal["smoothquant"] = "smoothquant"
    strength: Share = 0.5
    """How much of the difficulty moves into the weights, 0 to 1; the paper's alpha."""
    samples: Samples | None = None
    """How much of ``data`` is used; 200 are usually enough. Default: all."""

    @property
    def calibrates(self) -> bool:
        return True

    def check(self, training: Training) -> None:
        super().check(training)
        training.data.require()

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        try:
            places = self._places(training)
        except TargetError as error:
            return [Foreseen(name, str(error), refused=True) for name in training.targets()]
        moved = {name for place in places for name, _ in place.after}
        alone = "nothing before it can take the factor, or something else reads its input too"
        return [
            Foreseen(name, "scaled along its inputs") if name in moved else Foreseen(name, alone, refused=True)
            for name in training.targets()
        ]

    def on_update(self, training: Training, state: None) -> None:
        places = self._places(training)
        largest = self._largest_inputs(training, {place.after[0][0] for place in places})
        modules = named_modules(training.model)
        for place in places:
            if place.after[0][0] in largest:
                weights = [weight_rows(modules[name]) for name, _ in place.after]
                move_scale_(training.model, place, smoothing(largest[place.after[0][0]], weights, self.strength))
        training.record("smooth", places=len(places))

    def _places(self, training: Training) -> list[Scaling]:
        graph = training.data.graph()
        if graph is None:
            raise TargetError(f"{self.name}: give example_inputs, so that the model's graph can be traced")
        return scalings(graph, list(training.targets()), homogeneous=False)

    def _largest_inputs(self, training: Training, names: set[str]) -> dict[str, Tensor]:
        """The largest magnitude of each input channel, over data and processes."""
        modules = named_modules(training.model)
        largest: dict[str, Tensor] = {}

        def take(name: str, x: Tensor) -> None:
            new = x.detach().abs().reshape(-1, x.shape[-1]).amax(0)
            largest[name] = torch.maximum(largest[name], new) if name in largest else new

        for name in names:
            training.links.add(modules[name], InputTaker(functools.partial(take, name)))
        try:
            training.data.run(self.samples)
        finally:
            training.links.remove()
        refuse_not_finite_inputs(training.name, largest)
        return {name: extremes_of_all(found, found)[1] for name, found in largest.items()}


def smoothing(largest: Tensor, weights: Sequence[Tensor], strength: float) -> Tensor:
    """The factor of each input channel, (n,): Eq. 4; 1 where inputs or weights are all 0.

    Args:
        largest: (n,), the largest magnitude of each input.
        weights: (out, n) each, of the layers that read them.
        strength: 0 to 1.
    """
    columns = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    return geometric(largest.to(columns.dtype), columns, strength)
