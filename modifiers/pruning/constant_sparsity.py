"""`constant_sparsity`: the zeros that a model came with stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import nn

from paredown.framework.modifier import Foreseen, TargetedModifier
from paredown.framework.training import Training
from paredown.modifiers.pruning.mask_state import PRUNABLE, Masks, MaskState, weights_of
from paredown.modifiers.pruning.masks import MaskForm, mask_of


class ConstantSparsity(TargetedModifier):
    """Keep zeros: what is zero when the window opens is zero after every step, the rest trains freely.

    For fine-tuning a model that was pruned before, or for training with a fixed sparse pattern.
    """

    example: ClassVar = {}
    claims: ClassVar = frozenset({"zeros"})
    kinds: ClassVar = PRUNABLE
    state_type: ClassVar = MaskState

    type: Literal["constant_sparsity"] = "constant_sparsity"
    hold: bool = True
    """Keep the zeros after the window's end."""
    masks: MaskForm = "fast"
    """Speed against memory: 4 bytes a float32 weight (``fast``), or 1 (``compact``)."""

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return list(weights_of(training.targets(self)).values())

    def check(self, training: Training) -> None:
        weights_of(training.targets(self))

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        weights = weights_of(training.targets(self))
        return [
            Foreseen(name.rpartition(".")[0], f"its {int((weight == 0).sum())} zeros stay", density=_density(weight))
            for name, weight in weights.items()
        ]

    def on_start(self, training: Training) -> MaskState:
        weights = weights_of(training.targets(self)).values()
        masks = Masks({weight: mask_of(weight, self.masks) for weight in weights})
        total = sum(weight.numel() for weight in weights)
        return MaskState(masks, sum(int((weight == 0).sum()) for weight in weights) / total)

    def on_step(self, training: Training, state: MaskState) -> None:
        state.masks.apply_()

    def on_end(self, training: Training, state: MaskState) -> None:
        if not self.hold:
            state.masks = Masks()

    def on_finalize(self, training: Training, state: MaskState) -> None:
        if self.hold:  # weights may have been loaded since the last step
            state.masks.apply_()


def _density(weight: nn.Parameter) -> float:
    return float((weight != 0).float().mean())
