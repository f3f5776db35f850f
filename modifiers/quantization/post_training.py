"""What the modifiers share that quantize a trained model at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, Strict

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.stored import QuantizedLayers
from paredown.modifiers.quantization.quantization_modifier import QuantizationModifier

__all__ = ["PostTrainingQuantization", "Samples", "require_data"]

Samples = Annotated[int, Strict(), Field(ge=1)]


def require_data(modifier: Modifier, training: Training) -> None:
    """Raise ScheduleError where there is nothing to calibrate on, for a modifier that acts once."""
    if training.data is None:
        raise ScheduleError(
            f"{modifier.name} ({modifier.type}) needs batches to calibrate on: modify(..., data=loader)"
        )


class PostTrainingQuantization(QuantizationModifier):
    """Base of the modifiers that act once, at ``start``: grids are found, fixed and kept."""

    samples: Samples | None = None
    """How much of ``data`` is used to calibrate; 200 are usually enough. Default: all."""

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
            require_data(self, training)

    def on_start(self, training: Training) -> QuantizedLayers:
        state = super().on_start(training)
        self.fix_grids(training, state)
        return state

    def on_update(self, training: Training, state: QuantizedLayers) -> None:
        if state.ranges:
            self.calibrate(training, state, self.samples)
