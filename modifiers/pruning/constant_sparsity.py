"""`constant_sparsity`: the zeros that a model already has stay zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import nn

from paredown.framework.distributed.shards import own_part, sum_of_parts
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.apply import mask_of
from paredown.modifiers.pruning.masks.held_masks import HeldMasks
from paredown.modifiers.pruning.masks.state import Masks, MaskState, weights_of
from paredown.modifiers.pruning.scoring.prunable import layer_of


class ConstantSparsity(HeldMasks):
    """Keep zeros: what is zero when the window opens is zero after every step, the rest trains freely.

    For fine-tuning a model that was pruned before, or for training with a fixed sparse pattern.
    """

    example: ClassVar = {}

    only_keeps: ClassVar = True

    type: Literal["constant_sparsity"] = "constant_sparsity"

    @property
    def works_on_parts(self) -> bool:
        return True

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return list(weights_of(training.targets()).values())

    def check(self, training: Training) -> None:
        weights_of(training.targets())

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        weights = weights_of(training.targets())
        return [
            Foreseen(layer_of(name), f"its {_zeros(weight)} zeros stay", density=_density(weight))
            for name, weight in weights.items()
        ]

    def on_start(self, training: Training) -> MaskState:
        return self._zeros_of(training)

    def disturbed(self, training: Training, state: MaskState, parameters: Sequence[nn.Parameter]) -> int:
        """Until the first step in the window, what is loaded is what it begins with."""
        if self._begins(training):
            return sum(weight.numel() for weight in parameters)
        return super().disturbed(training, state, parameters)

    def put_right(self, training: Training, state: MaskState, parameters: Sequence[nn.Parameter]) -> None:
        if not self._begins(training):
            super().put_right(training, state, parameters)
            return
        begun = self._zeros_of(training)
        state.masks, state.share = begun.masks, begun.share

    def unreached(self, training: Training, state: MaskState | None) -> str | None:
        if state is not None and state.share:
            return None
        return (
            "no weight of its targets was zero when its window opened, so nothing is held: load the sparse weights "
            "before modify, or prune first"
        )

    def _begins(self, training: Training) -> bool:
        return training.window is not None and training.step <= training.window.start

    def _zeros_of(self, training: Training) -> MaskState:
        weights = weights_of(training.targets()).values()
        masks = Masks({weight: mask_of(weight, self.masks) for weight in weights})
        total = sum(weight.numel() for weight in weights)
        return MaskState(masks, sum(map(_zeros, weights)) / total)


def _density(weight: nn.Parameter) -> float:
    return 1 - _zeros(weight) / max(weight.numel(), 1)


def _zeros(weight: nn.Parameter) -> int:
    return int(sum_of_parts((own_part(weight) == 0).sum(), weight))
