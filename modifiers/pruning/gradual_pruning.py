"""The base of the modifiers that prune along a curve, each by its criterion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from paredown.framework.curves import Curve, curve_value
from paredown.framework.modifier import Share
from paredown.framework.registry import type_name
from paredown.framework.training import Training
from paredown.modifiers.pruning.criterion import Criterion
from paredown.modifiers.pruning.mask_pruning import MaskPruning
from paredown.modifiers.pruning.mask_state import MaskState, refuse_nan_gradients
from paredown.modifiers.pruning.prunable import Prunable

__all__ = ["GradualPruning"]


class GradualPruning(MaskPruning):
    """Base: the share of zeros moves along a curve over the window, and is held afterwards."""

    initial_sparsity: Share = 0.0
    """Share of zeros at the start of the window."""
    curve: Curve = "cubic"
    """How the share moves over the window."""

    @classmethod
    def default_criterion(cls) -> Criterion:
        """The criterion with its defaults, for ``criterion: name`` of other modifiers."""
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
        share = curve_value(self.curve, training.progress(self), min(self.initial_sparsity, final), final)
        if isinstance(self.curve, str):
            share = max(share, min(state.share, final))  # what is zero already is not given back
        refuse_nan_gradients(training, {name: each.weight for name, each in usable.items()})
        rounds = self.update_rounds(training)
        with _put_back_on_failure(usable if rounds > 1 else {}):
            for part in _rounds(state.share, share, rounds):
                self.prune(training, state, usable, part)
        state.share = share
        training.record(self, "update", sparsity=share)


def _rounds(reached: float, share: float, rounds: int) -> Iterator[float]:
    """Shares at which in each round the same part of what is left goes."""
    for number in range(1, rounds):
        left = max(1 - share, 1e-9) / max(1 - reached, 1e-9)
        yield 1 - (1 - reached) * left ** (number / rounds)
    yield share


@contextmanager
def _put_back_on_failure(usable: Mapping[str, Prunable]) -> Iterator[None]:
    kept = {name: each.weight.detach().clone() for name, each in usable.items()}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, each in kept.items():
                usable[name].weight.copy_(each)
        raise
