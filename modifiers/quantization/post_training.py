"""The base of the modifiers that quantize a trained model at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, Strict

from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.stored import QuantizedLayers
from paredown.modifiers.quantization.quantization_modifier import QuantizationModifier

__all__ = ["PostTrainingQuantization", "Samples"]

Samples = Annotated[int, Strict(), Field(ge=1)]


class PostTrainingQuantization(QuantizationModifier):
    """Base of the modifiers that act once, at ``start``: grids are found, fixed and kept."""

    samples: Samples | None = None
    """How much of ``data`` is used to calibrate; 200 are usually enough. Default: all."""

    @property
    def calibration_samples(self) -> int | None:
        return self.samples

    @property
    def acts_once(self) -> bool:
        return True

    @property
    def calibrates(self) -> bool:
        return self.activations is not None and not self.dynamic

    def unused_fields(self) -> Sequence[str]:
        return ["samples"] if not self.calibrates and "samples" in self.model_fields_set else []

    def check(self, training: Training) -> None:
        super().check(training)
        if self.calibrates:
            training.data.require()

    def on_start(self, training: Training) -> QuantizedLayers:
        state = super().on_start(training)
        self.fix_grids(training, state)
        return state

    def on_update(self, training: Training, state: QuantizedLayers) -> None:
        if state.ranges:
            self.calibrate(training, state, self.samples)
