"""The base of the modifiers that prune along a curve, each by its criterion."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationInfo, field_validator

from paredown.framework.modifier.curves import Curve, curve_value
from paredown.framework.modifier.fields import Share
from paredown.framework.modifier.registry import type_name
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.base import MaskPruning
from paredown.modifiers.pruning.masks.floor import checked_floor
from paredown.modifiers.pruning.masks.state import MaskState, refuse_nan_gradients
from paredown.modifiers.pruning.scoring.criterion import Criterion, CriterionModifier

__all__ = ["GradualPruning"]


class GradualPruning(MaskPruning, CriterionModifier):
    """Base: the share of zeros moves along a curve over the window, and is held afterwards."""

    initial_sparsity: Share = 0.0
    """Share of zeros at the start of the window."""
    curve: Curve = "cubic"
    """How the share moves over the window."""

    @field_validator("curve")
    @classmethod
    def _points_are_shares(cls, curve: Curve, info: ValidationInfo) -> Curve:
        if isinstance(curve, str):
            return curve
        final = info.data.get("final_sparsity")
        if any(not 0 <= share <= 1 for _, share in curve):
            raise ValueError(f"{curve!r}: the points of a curve are (progress, share of zeros), both in 0..1")
        checked_floor(info.data.get("layer_floor"), [share for _, share in curve])
        if final is not None and curve[-1][1] != final:
            raise ValueError(f"the curve ends at {curve[-1][1]:g}, and final_sparsity is {final:g}")
        return curve

    @classmethod
    def default_criterion(cls) -> Criterion:
        return cls.model_construct(type=type_name(cls)).ranking

    def update_rounds(self, training: Training) -> int:
        """In how many rounds, each on what the one before left, an update reaches its share."""
        return 1

    def unused_fields(self) -> Sequence[str]:
        level = self.curve == "constant" or not isinstance(self.curve, str)
        return ["initial_sparsity"] if level and "initial_sparsity" in self.model_fields_set else []

    def on_update(self, training: Training, state: MaskState) -> None:
        usable = self.usable(training)
        final = self.final(training, usable)
        share = curve_value(self.curve, training.progress, min(self.initial_sparsity, final), final)
        if isinstance(self.curve, str):
            share = max(share, min(state.share, final))  # what is zero already is not given back
        refuse_nan_gradients(training, {name: each.weight for name, each in usable.items()})
        self.prune(training, state, usable, share, self.update_rounds(training))
        state.share = share
        training.record("update", sparsity=share)
