"""What the modifiers share that quantize a trained model at once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from paredown.framework.errors import ScheduleError
from paredown.framework.training import Training
from paredown.modifiers.quantization.quantization_modifier import QuantizationModifier
from paredown.modifiers.quantization.quantized_layers import QuantizedLayers

__all__ = ["PostTrainingQuantization", "Samples"]

Samples = Annotated[int, Strict(), Field(ge=1)]


class PostTrainingQuantization(QuantizationModifier):
    """Base of the modifiers that act once, at ``start``: grids are found, fixed and kept."""

    @property
    def acts_once(self) -> bool:
        return True

    def check(self, training: Training) -> None:
        super().check(training)
        if self.calibrates and training.data is None:
            raise ScheduleError(f"{self.name} ({self.type}) needs batches to calibrate on: modify(..., data=loader)")

    def on_start(self, training: Training) -> QuantizedLayers:
        state = super().on_start(training)
        self.fix_grids(training, state)
        return state
