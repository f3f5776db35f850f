"""`weight_decay`: the optimizer's weight decay over time."""

from __future__ import annotations

from typing import ClassVar, Literal

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.training import Training
from paredown.modifiers.training.group_schedule import GroupSchedule


class WeightDecay(GroupSchedule):
    """The weight decay moves from ``initial`` to ``final`` along ``curve`` over the window, and then stays.

    Groups (and optimizers) with weight decays of their own keep their ratio to the largest one, so that groups without
    (biases and norms, often) stay without; where no group has any, all get the same. Whether it is an L2 penalty (SGD,
    Adam) or decoupled from the gradient (AdamW; Loshchilov & Hutter, 2019, arXiv:1711.05101) is the optimizer's choice.
    """

    example: ClassVar = {"final": 0.0001}
    claims: ClassVar = frozenset({"schedule of weight_decay"})
    key: ClassVar = "weight_decay"

    type: Literal["weight_decay"] = "weight_decay"

    def check(self, training: Training) -> None:
        for optimizer in training.optimizers:
            if any(self.key not in group for group in optimizer.param_groups):
                raise ScheduleError(
                    f"{self.name}: {type(optimizer).__name__} has no weight decay: take an optimizer that has one "
                    "(SGD, AdamW), or this modifier out of the recipe"
                )
