"""The base of the modifiers that solve for new weights on the grid, layer by layer, on calibration data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from paredown.framework.calibration.rollback import Rollback
from paredown.framework.calibration.second_moments import WITH_COLUMNS, SecondMoments, second_moments
from paredown.framework.calibration.streaming import stream
from paredown.framework.model.graph.fusion import Scaling
from paredown.framework.model.targets import named_modules, named_parameters
from paredown.framework.model.weights import WeightLayout, tied_to
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.stored import Grid, QuantizedLayers
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.post_training import PostTrainingQuantization

__all__ = ["WeightReconstruction"]


class WeightReconstruction(PostTrainingQuantization):
    """Base of the modifiers that give weights new values on their grid, which the layer's own inputs decide.

    The new values are written into the weights; the quantizers are put on when all are done. If that fails midway, all
    weights are put back.
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]] = WITH_COLUMNS
    claims: ClassVar = frozenset({"grid", "weights"})
    after: ClassVar = frozenset()
    chooses: ClassVar = True

    weights: WeightScheme = WeightScheme(bits=4, granularity="group", group_size=128)
    """Width and grid of the weights."""

    @property
    def rewrites(self) -> bool:
        return True

    @property
    def calibrates(self) -> bool:
        return True

    def refusal(self, training: Training, name: str, module: nn.Module) -> str | None:
        tied = tied_to(training.model, name)
        return super().refusal(training, name, module) or (f"its weight is tied to {tied!r}" if tied else None)

    @abstractmethod
    def reconstructed(self, weight: Tensor, moments: SecondMoments, scheme: WeightScheme) -> tuple[Tensor, Grid]:
        """The new weight, all of it on the grid, of a layer whose inputs have these second moments; weights have their
        output channels first."""

    def movable(self, training: Training, layers: Collection[str]) -> Sequence[Scaling]:
        """Where factors are to be moved before weights are reconstructed."""
        return ()

    def move(
        self,
        training: Training,
        places: Sequence[Scaling],
        schemes: Mapping[str, WeightScheme],
        moments: Mapping[str, SecondMoments],
    ) -> Mapping[str, SecondMoments]:
        """Move factors into a unit's weights; gives the second moments of their inputs after it."""
        return moments

    def fix_grids(self, training: Training, state: QuantizedLayers, names: Collection[str] | None = None) -> None:
        """Grids come with the weights."""

    def attach_weights(self, training: Training, state: QuantizedLayers, names: Collection[str] | None = None) -> None:
        super().attach_weights(training, state, [name for name in state.layers if f"{name}.weight" in state.grids])

    def on_update(self, training: Training, state: QuantizedLayers) -> None:
        schemes = {name: each.weights for name, each in self.schemes_of(training, state).items() if each.weights}
        with Rollback() as kept:
            self._reconstruct_all(training, state, schemes, kept)
        if not self.rewrites:
            return
        unseen = [name for name in schemes if f"{name}.weight" not in state.grids]
        super().fix_grids(training, state, unseen)
        training.record("quantize", layers=list(schemes), without_data=unseen)
        self.attach_weights(training, state)
        super().on_update(training, state)

    def _reconstruct_all(
        self, training: Training, state: QuantizedLayers, schemes: Mapping[str, WeightScheme], kept: Rollback
    ) -> None:
        places = self.movable(training, list(schemes))
        for unit in stream(training, list(schemes), self.samples):
            moments = second_moments(training, unit)
            called = {name: schemes[name] for name in unit.layers if name in moments}
            inside = [place for place in places if {name for name, _ in place.after} <= called.keys()]
            for parameter in _changed(training, called, inside):
                kept.keep(parameter)
            moments = self.move(training, inside, called, moments)
            if self.rewrites:
                self._reconstruct(training, state, called, moments)

    def _reconstruct(
        self,
        training: Training,
        state: QuantizedLayers,
        schemes: Mapping[str, WeightScheme],
        moments: Mapping[str, SecondMoments],
    ) -> None:
        modules = named_modules(training.model)
        for name, scheme in schemes.items():
            weight, layout = modules[name].get_parameter("weight"), WeightLayout.of(modules[name])
            rows = layout.rows(weight.detach())
            new, state.grids[f"{name}.weight"] = self.reconstructed(rows, moments[name], scheme)
            with torch.no_grad():
                weight.copy_(layout.kept(new))


def _changed(training: Training, layers: Collection[str], places: Sequence[Scaling]) -> Iterator[nn.Parameter]:
    """The parameters that a unit's reconstruction writes."""
    modules, parameters = named_modules(training.model), named_parameters(training.model)
    yield from (modules[name].get_parameter("weight") for name in layers)
    yield from (parameters[name] for place in places for name, _ in place.before)
