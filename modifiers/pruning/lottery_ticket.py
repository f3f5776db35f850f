"""`lottery_ticket`: train, prune, rewind the weights, and again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from paredown.framework.errors import ScheduleError
from paredown.framework.model.optimizers import forget_
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.framework.storage.state import containers
from paredown.modifiers.pruning.masks.base import MaskPruning
from paredown.modifiers.pruning.masks.state import Masks, MaskState, refuse_nan_gradients
from paredown.modifiers.pruning.scoring.criterion import Criterion, CriterionName, Statistics, criterion_named

__all__ = ["LotteryTicket", "LotteryTicketState", "share_after"]


@dataclass
class LotteryTicketState(MaskState):
    """With every parameter and buffer as it was at the time to rewind to."""

    parameters: Statistics = field(default_factory=Statistics)
    buffers: dict[str, Tensor] = field(default_factory=dict)


class LotteryTicket(MaskPruning):
    """Iterative magnitude pruning with weight rewinding (the lottery ticket hypothesis: Frankle & Carbin, 2018,
    arXiv:1803.03635; rewinding to an early epoch: Frankle et al., 2019, arXiv:1912.05671).

    After every ``every`` the same share of the remaining weights goes, so that ``final_sparsity`` is reached at
    ``end``; then all parameters and buffers go back to what they were at ``rewind_to``, the zeros apart, and the
    optimizer starts over. ``rewind_to: null`` leaves them as they are: iterative pruning with retraining (Han et al.,
    2015, arXiv:1506.02626). Training of the last ticket follows ``end``, so that lies before the run's end. The
    learning rate is the loop's: a schedule that restarts every ``every`` is what the papers have.
    """

    example: ClassVar = {"final_sparsity": 0.5, "every": "3 steps", "end": "9 steps"}
    state_type: ClassVar = LotteryTicketState
    needs_training: ClassVar = True

    type: Literal["lottery_ticket"] = "lottery_ticket"
    every: Time
    """Length of a round of training."""
    rewind_to: Time | None = Time.parse(0)
    """When the weights were what they are rewound to: within the first round. Null: they are not rewound."""
    criterion: CriterionName = "magnitude"
    """What weights are worth: ``magnitude``, ``taylor``, ... (each ``..._pruning`` modifier has one)."""

    @property
    def ranking(self) -> Criterion:
        return criterion_named(self.criterion)

    def later_times(self) -> Mapping[str, Time]:
        return {} if self.rewind_to is None else {"rewind_to": self.rewind_to}

    def check(self, training: Training) -> None:
        super().check(training)
        clock, window = training.clock, training.window
        if clock is None or window is None or self.rewind_to is None:
            return
        rewind = clock.in_steps(self.rewind_to)
        if not window.start <= rewind < window.start + window.every:
            raise ScheduleError(
                f"{self.name}: rewind_to is step {rewind}; it has to lie within the first round, from step "
                f"{window.start} and before step {window.start + window.every}"
            )
        if clock.run_steps is not None and window.end >= clock.run_steps:
            raise ScheduleError(
                f"{self.name}: the last rewinding is at step {window.end}, where the run ends: set end earlier, so "
                "that the ticket is trained, or rewind_to: null"
            )

    def on_start(self, training: Training) -> LotteryTicketState:
        state = LotteryTicketState(**vars(super().on_start(training)))
        self._remember(training, state)
        return state

    def on_step(self, training: Training, state: LotteryTicketState) -> None:
        super().on_step(training, state)
        self._remember(training, state)

    def on_update(self, training: Training, state: LotteryTicketState) -> None:
        usable = self.usable(training)
        share = share_after(training.progress, self.final(training, usable))
        if share <= state.share:
            return
        refuse_nan_gradients(training, {name: each.weight for name, each in usable.items()})
        self.prune(training, state, usable, share)
        self._rewind(training, state)
        state.share = share
        training.record("update", sparsity=share)

    def on_end(self, training: Training, state: LotteryTicketState) -> None:
        super().on_end(training, state)
        state.parameters, state.buffers = Statistics(), {}

    def _remember(self, training: Training, state: LotteryTicketState) -> None:
        due = self.rewind_to is not None and not training.ended and training.reached(self.rewind_to)
        if due and not state.parameters:
            self._refuse_lateness(training)
            state.parameters.update({each: each.detach().clone() for each in training.model.parameters()})
            state.buffers = {name: each.clone() for name, each in training.model.named_buffers()}

    def _refuse_lateness(self, training: Training) -> None:
        """A run that goes on under another ``rewind_to`` has nothing to rewind to."""
        assert training.clock is not None
        assert self.rewind_to is not None
        due = math.ceil(training.clock.in_steps(self.rewind_to))
        if training.step > due:
            raise ScheduleError(
                f"{self.name}: rewind_to is step {due}, and the run is at step {training.step} without having kept the "
                "weights of then: go on with the recipe's own rewind_to, or null"
            )

    @torch.no_grad()
    def _rewind(self, training: Training, state: LotteryTicketState) -> None:
        if self.rewind_to is None:
            return
        buffers = dict(training.model.named_buffers())
        for parameter, value in state.parameters.items():
            parameter.copy_(value)
        for name, value in state.buffers.items():
            if name in buffers and buffers[name].shape == value.shape:  # those of removed channels are not kept apart
                buffers[name].copy_(value)
        for held in training.states.values():
            for container in containers(held):
                if isinstance(container, Masks):
                    container.apply_()
        state.masks.apply_()
        forget_(training.optimizers, state.parameters)


def share_after(progress: float, final: float) -> float:
    """The share of zeros at ``progress`` if in equal times equal shares of what is left go; exact at both ends.

    >>> share_after(0.5, 0.75)
    0.5
    """
    return final if progress >= 1 else 1 - (1 - final) ** progress if final < 1 else 0.0
