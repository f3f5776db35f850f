"""The base of the modifiers that keep zeros in place: masks that are applied after every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from paredown.framework.model.optimizers import copies_of_weights
from paredown.framework.modifier.base import TargetedModifier
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.apply import MaskForm, apply_masks_
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
        """Between a forward and its backward only what the optimizer that just stepped trains is written."""
        touched = training.just_stepped_among(state.masks)
        state.masks.apply_(touched)
        self._mask_copies(training, state, touched)

    def held(self, training: Training, state: Any) -> Sequence[nn.Parameter]:
        return list(state.masks)

    def disturbed(self, training: Training, state: Any, parameters: Sequence[nn.Parameter]) -> int:
        return sum(state.masks.not_zero(parameter) for parameter in parameters)

    def put_right(self, training: Training, state: Any, parameters: Sequence[nn.Parameter]) -> None:
        state.masks.apply_(parameters)

    def _mask_copies(self, training: Training, state: Any, weights: Sequence[nn.Parameter]) -> None:
        """Zero in what the optimizer keeps beside the weights and writes back (averages of a schedule-free one)."""
        if state.copies is None and any(optimizer.state for optimizer in training.optimizers):
            state.copies = copies_of_weights(training.optimizers, list(state.masks))
        for weight in weights if state.copies else ():
            for optimizer in training.optimizers:
                kept = [optimizer.state[weight][key] for key in state.copies if key in optimizer.state.get(weight, {})]
                apply_masks_(kept, [state.masks[weight]] * len(kept))

    def on_end(self, training: Training, state: Any) -> None:
        if not self.hold:
            state.masks = Masks()
