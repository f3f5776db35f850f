"""`learning_rate`: the optimizer's step size over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict
from torch import Tensor, nn
from torch.optim import Optimizer

from paredown.framework.curves import Curve, curve_value
from paredown.framework.errors import ScheduleError
from paredown.framework.modifier import Foreseen, Modifier
from paredown.framework.time import Time
from paredown.framework.training import Training

Rate = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]


@dataclass
class Rates:
    """Each param group's learning rate when the window opened, optimizer by optimizer."""

    before: list[list[float]] = field(default_factory=list)


class LearningRate(Modifier):
    """The learning rate moves from ``initial`` to ``final`` along ``curve`` over the window, and then stays.

    Groups (and optimizers) with learning rates of their own keep their ratio to the largest one. A loop that has an
    LR scheduler of its own is refused: two would overwrite each other.
    """

    example: ClassVar = {"final": 0.001}
    claims: ClassVar = frozenset({"schedule of lr"})
    state_type: ClassVar = Rates
    needs_training: ClassVar = True

    type: Literal["learning_rate"] = "learning_rate"
    every: Time = Time.parse("1 step")
    """Distance between updates. Default: every optimizer step."""
    initial: Rate | None = None
    """Learning rate at the start of the window. Default: what the optimizer has then."""
    final: Rate
    """Learning rate from the end of the window on."""
    curve: Curve = "linear"
    """How it moves over the window."""

    def unused_fields(self) -> Sequence[str]:
        level = self.curve == "constant" or not isinstance(self.curve, str)
        return ["initial"] if level and "initial" in self.model_fields_set else []

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return [parameter for _, group in _groups(training) for parameter in group["params"]]

    def check(self, training: Training) -> None:
        self._refuse_scheduler(training)

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        begin = "the optimizer's own" if self.initial is None else f"{self.initial:g}"
        return [Foreseen("(optimizer)", f"learning rate {begin} to {self.final:g}")]

    def on_start(self, training: Training) -> Rates:
        return Rates([[float(group["lr"]) for group in one.param_groups] for one in training.optimizers])

    def on_update(self, training: Training, state: Rates) -> None:
        self._refuse_scheduler(training)
        largest = max(rate for before in state.before for rate in before)
        initial = largest if self.initial is None else self.initial
        rate = curve_value(self.curve, training.progress(self), initial, self.final)
        for optimizer, before in zip(training.optimizers, state.before, strict=True):
            for group in optimizer.param_groups[len(before) :]:  # added since: it joins with the rate that it came with
                before.append(float(group["lr"]))
            for group, own in zip(optimizer.param_groups, before, strict=True):
                _set(group, rate * (own / largest if largest else 1.0))

    def _refuse_scheduler(self, training: Training) -> None:
        for optimizer in training.optimizers:
            if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
                raise ScheduleError(
                    f"{self.name}: the loop has an LR scheduler on the same optimizer, and each would overwrite the "
                    "other's learning rate: take the scheduler out of the loop, or this modifier out of the recipe"
                )


def _groups(training: Training) -> list[tuple[Optimizer, dict[str, Any]]]:
    return [(optimizer, group) for optimizer in training.optimizers for group in optimizer.param_groups]


def _set(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
