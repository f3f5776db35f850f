"""The base of the modifiers that keep zeros in place: masks that are applied after every step."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from paredown.framework.modifier.base import TargetedModifier
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.apply import MaskForm
from paredown.modifiers.pruning.masks.state import PRUNABLE, Masks, MaskState

__all__ = ["HeldMasks"]


class HeldMasks(TargetedModifier):
    """Base: what its masks prune is zero after every optimizer step; after the window's end where ``hold`` says so."""

    claims: ClassVar = frozenset({"zeros"})
    kinds: ClassVar[tuple[type[nn.Module], ...]] = PRUNABLE
    state_type: ClassVar[type] = MaskState

    hold: bool = True
    """Keep the zeros after the window's end; false lets the pruned weights train again, from zero."""
    masks: MaskForm = "fast"
    """Speed against memory: 4 bytes a float32 weight (``fast``), or 1 (``compact``)."""

    @property
    def holds(self) -> bool:
        return self.hold

    def on_step(self, training: Training, state: Any) -> None:
        state.masks.apply_()

    def on_end(self, training: Training, state: Any) -> None:
        if not self.hold:
            state.masks = Masks()

    def on_finalize(self, training: Training, state: Any) -> None:
        if self.hold or not training.ended:
            state.masks.apply_()  # weights may have been loaded since the last step
