"""`learning_rate`: the optimizer's step size over time."""

from __future__ import annotations

from typing import ClassVar, Literal

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.proposals import Proposal
from paredown.framework.modifier.training import Training
from paredown.modifiers.training.group_schedule import GroupNumbers, GroupSchedule


class LearningRate(GroupSchedule):
    """The learning rate moves from ``initial`` to ``final`` along ``curve`` over the window, and then stays.

    Groups (and optimizers) with learning rates of their own keep their ratio to the largest one. A loop that has an
    LR scheduler of its own is refused: two would overwrite each other.
    """

    example: ClassVar = {"final": 0.001}
    claims: ClassVar = frozenset({"schedule of lr"})
    key: ClassVar = "lr"

    proposals: ClassVar = (
        Proposal("rate", "the learning rate falls to zero", {"final": 0.0, "curve": "cosine"}, whole=True),
    )

    type: Literal["learning_rate"] = "learning_rate"

    def check(self, training: Training) -> None:
        self._refuse_scheduler(training)

    def on_update(self, training: Training, state: GroupNumbers) -> None:
        self._refuse_scheduler(training)
        super().on_update(training, state)

    def _refuse_scheduler(self, training: Training) -> None:
        for optimizer in [*training.optimizers, *training.wrappers]:
            if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
                raise ScheduleError(
                    f"{self.name}: the loop has an LR scheduler on the same optimizer, and each would overwrite the "
                    "other's learning rate: take the scheduler out of the loop, or this modifier out of the recipe"
                )
