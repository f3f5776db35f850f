"""`rigl`: dynamic sparse training, from scratch: connections move while their number stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.modifier.curves import Curve, curve_value, share_of
from paredown.framework.modifier.fields import Share
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.apply import apply_masks_, mask_keeping, to_bool
from paredown.modifiers.pruning.masks.base import MaskPruning
from paredown.modifiers.pruning.masks.scope import ScopeField
from paredown.modifiers.pruning.masks.state import MaskState, refuse_nan_gradients
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched, criterion_named
from paredown.modifiers.pruning.scoring.gradients import step_gradients
from paredown.modifiers.pruning.scoring.prunable import Prunable
from paredown.modifiers.pruning.selection.select import smallest

__all__ = ["Rigl", "RiglState", "moved_connections"]


@dataclass
class RiglState(MaskState):
    """With whether the random mask was made."""

    opened: bool = False


class Rigl(MaskPruning):
    """RigL (Evci et al., 2019, arXiv:1911.11134) and SET (Mocanu et al., 2017, arXiv:1707.04780).

    When the window opens a random mask makes the model sparse; its weights were never trained dense. At every update
    each layer drops the ``drop`` share of its connections that are smallest, and grows as many where the loss's
    gradient is largest (RigL; ``growth: gradient``) or anywhere (SET; ``growth: random``), from zero and with cleared
    momenta. The share that moves falls to 0 along ``curve`` (RigL's cosine, equation 1), so the last mask is the one
    that training goes on with. The paper moves connections every 100 steps, in the first three quarters of the run.
    """

    example: ClassVar = {"final_sparsity": 0.5}
    state_type: ClassVar = RiglState
    needs_training: ClassVar = True

    type: Literal["rigl"] = "rigl"
    structure: Literal["unstructured"] = "unstructured"
    """Single weights."""
    scope: ScopeField = "erk"
    """How the zeros are shared out over the layers."""
    drop: Share = 0.3
    """Share of a layer's connections that move at the first update."""
    curve: Curve = "cosine"
    """How that share falls to 0."""
    growth: Literal["gradient", "random"] = "gradient"
    """Where connections grow."""
    seed: Annotated[int, Strict(), Field(ge=0)] = 0
    """Of the random numbers."""

    @property
    def ranking(self) -> Criterion:
        return criterion_named("random")

    def on_start(self, training: Training) -> RiglState:
        state = RiglState(**vars(super().on_start(training)))
        state.watched = Watched(generator=torch.Generator().manual_seed(self.seed))
        return state

    def on_update(self, training: Training, state: RiglState) -> None:
        usable = self.usable(training)
        if not state.opened:
            self._open(training, state, usable)
            return
        refuse_nan_gradients(training, {name: each.weight for name, each in usable.items()})
        share = curve_value(self.curve, training.progress, self.drop, 0.0)
        moved = self._moved(state, usable, share)
        marks = {weight: keep != to_bool(state.masks[weight]) for weight, keep in moved.items()}
        state.masks.update({weight: mask_keeping(keep, weight, self.masks) for weight, keep in moved.items()})
        apply_masks_(list(state.masks), list(state.masks.values()))
        self.forget(training, marks.items())
        training.record("update", sparsity=state.share, moved=sum(int(each.sum()) // 2 for each in marks.values()))

    def _open(self, training: Training, state: RiglState, usable: dict[str, Prunable]) -> None:
        final = self.final(training, usable)
        self.prune(training, state, usable, final)
        state.share, state.opened = final, True
        training.record("update", sparsity=final)

    def _moved(self, state: RiglState, usable: dict[str, Prunable], share: float) -> dict[nn.Parameter, Tensor]:
        """The new masks, bool, of the layers whose connections move."""
        gradients = step_gradients({name: each.weight for name, each in usable.items()})
        found = {}
        for name, one in usable.items():
            keep = to_bool(state.masks[one.weight])
            worth = self._growth_scores(state, one.weight, gradients.get(name))
            count = share_of(share, int(keep.sum()))
            if worth is not None and count:
                found[one.weight] = moved_connections(one.weight, keep, worth, count, name)
        return found

    def _growth_scores(self, state: RiglState, weight: nn.Parameter, gradient: Tensor | None) -> Tensor | None:
        if self.growth == "random":
            return torch.rand(weight.shape, generator=state.watched.generator).to(weight.device)
        return (
            None if gradient is None else gradient.detach().abs().to(torch.promote_types(weight.dtype, torch.float32))
        )


def moved_connections(weight: Tensor, keep: Tensor, growth: Tensor, count: int, name: str = "weight") -> Tensor:
    """The mask after ``count`` connections of smallest magnitude were dropped and as many grown; ties by index.

    Args:
        weight: of any shape.
        keep: bool, True where there is a connection.
        growth: not negative, of the weight's shape: connections grow where it is largest among those that are not
            there, or were just dropped.
        count: how many move; no more than there are gaps afterwards.
        name: for errors.

    >>> keep = torch.tensor([True, True, False, False])
    >>> moved_connections(torch.tensor([3.0, 1.0, 0.0, 0.0]), keep, torch.tensor([0.0, 0.1, 0.2, 0.9]), 1)
    tensor([ True, False, False,  True])
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    magnitudes = weight.detach().abs().to(wide).masked_fill(~keep, torch.inf)
    stays = keep & ~smallest([magnitudes], count, order="value", names=[name])[0]
    grown = smallest([(-growth).masked_fill(stays, torch.inf)], count, order="value", names=[name])[0]
    return stays | grown
