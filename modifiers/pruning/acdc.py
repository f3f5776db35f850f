"""`acdc`: training that alternates between compressed and decompressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.base import MaskPruning
from paredown.modifiers.pruning.masks.scope import ScopeField
from paredown.modifiers.pruning.masks.state import MaskState, refuse_nan_gradients
from paredown.modifiers.pruning.scoring.criterion import Criterion, CriterionName, criterion_named

__all__ = ["Acdc", "AcdcState"]


@dataclass
class AcdcState(MaskState):
    """With the number of phases that have begun."""

    phases: int = 0


class Acdc(MaskPruning):
    """AC/DC (Peste et al., 2021, arXiv:2106.12379): alternating compressed and decompressed training.

    At ``start`` the least weights become zero, all of them at once; after ``every`` they train again, from zero; and so
    on in turns. At ``end`` the model is compressed for good and keeps training that way until the run's end (algorithm
    1; what lies before ``start`` is its dense warm-up). The paper's ImageNet run of 100 epochs has start 10, every 5
    and end 75. Compression and decompression clear the momenta of the weights that go and come back.

    Weights that have just begun to train differ most by layer, and ranked all together a whole layer may go; the scope
    is ``erk`` unless said otherwise.
    """

    example: ClassVar = {"final_sparsity": 0.5, "every": "2 steps"}
    state_type: ClassVar = AcdcState
    needs_training: ClassVar = True

    type: Literal["acdc"] = "acdc"
    every: Time
    """Length of a phase, compressed or decompressed."""
    scope: ScopeField = "erk"
    """What competes: each layer for itself, small ones keeping more, unless said otherwise."""
    criterion: CriterionName = "magnitude"
    """What weights are worth: ``magnitude``, ``taylor``, ... (each ``..._pruning`` modifier has one)."""

    @property
    def ranking(self) -> Criterion:
        return criterion_named(self.criterion)

    def on_start(self, training: Training) -> AcdcState:
        return AcdcState(**vars(super().on_start(training)))

    def on_update(self, training: Training, state: AcdcState) -> None:
        if state.phases % 2 and not training.ended:
            self.hand_back(training, state)
            state.share = 0.0
        else:
            usable = self.usable(training)
            refuse_nan_gradients(training, {name: each.weight for name, each in usable.items()})
            final = self.final(training, usable)
            self.prune(training, state, usable, final)
            state.share = final
        state.phases += 1
        training.record("update", sparsity=state.share)
