"""The base of `learning_rate` and `weight_decay`: a number of the optimizers' param groups over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.base import Foreseen, Modifier
from paredown.framework.modifier.curves import Curve, curve_value
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training

__all__ = ["GroupNumbers", "GroupSchedule"]

#: of a learning rate that is kept in a float32 tensor
ROUNDING = 1e-6

Number = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]


@dataclass
class GroupNumbers:
    """Of each param group, optimizer by optimizer.

    Attributes:
        before: its number when the window opened.
        made: what it was set to last.
        key: of the number in a param group.
    """

    before: list[list[float]] = field(default_factory=list)
    made: list[list[float]] = field(default_factory=list)
    key: str = ""


class GroupSchedule(Modifier):
    """A number of the param groups moves from ``initial`` to ``final`` along ``curve``, and then stays."""

    state_type: ClassVar = GroupNumbers
    needs_training: ClassVar = True
    key: ClassVar[str]
    """Of the number in a param group."""

    every: Time = Time.parse("1 step")
    """Distance between updates. Default: every optimizer step."""
    initial: Number | None = None
    """Its value at the start of the window. Default: what the optimizer has then."""
    final: Number
    """Its value from the end of the window on."""
    curve: Curve = "linear"
    """How it moves over the window."""

    @property
    def update_interval(self) -> Time | None:
        return self.every

    def unused_fields(self) -> Sequence[str]:
        level = self.curve == "constant" or not isinstance(self.curve, str)
        return ["initial"] if level and "initial" in self.model_fields_set else []

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return [parameter for one in training.optimizers for group in one.param_groups for parameter in group["params"]]

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        begin = "the optimizer's own" if self.initial is None else f"{self.initial:g}"
        return [Foreseen("(optimizer)", f"{self.type.replace('_', ' ')} {begin} to {self.final:g}")]

    def on_start(self, training: Training) -> GroupNumbers:
        return GroupNumbers(self._numbers(training), key=self.key)

    def on_update(self, training: Training, state: GroupNumbers) -> None:
        self._refuse_other_writers(training, state)
        largest = max(number for before in state.before for number in before)
        initial = largest if self.initial is None else self.initial
        value = curve_value(self.curve, training.progress, initial, self.final)
        for optimizer, before in zip(training.optimizers, state.before, strict=True):
            for group in optimizer.param_groups[len(before) :]:  # added since: it joins with the number it came with
                before.append(float(group[self.key]))
        state.made = [[value * (own / largest if largest else 1.0) for own in before] for before in state.before]
        for optimizer, made in zip(training.optimizers, state.made, strict=True):
            for group, number in zip(optimizer.param_groups, made, strict=True):
                self._set(group, number)

    def unreached(self, training: Training, state: GroupNumbers | None) -> str | None:
        if state is not None and training.ended:
            return self._told_otherwise(training, state)
        reached = max(float(group[self.key]) for one in training.optimizers for group in one.param_groups)
        return f"a {self.type.replace('_', ' ')} of {reached:.4g} was reached, {self.final:.4g} was wanted"

    def _refuse_other_writers(self, training: Training, state: GroupNumbers) -> None:
        otherwise = self._told_otherwise(training, state)
        if otherwise is not None:
            raise ScheduleError(
                f"{self.name}: {otherwise}: something else sets it too (a scheduler such as ReduceLROnPlateau, or the "
                "loop itself). Take that out of the loop, or this modifier out of the recipe"
            )

    def _told_otherwise(self, training: Training, state: GroupNumbers) -> str | None:
        """What somebody set where the recipe had set something else; another window of the recipe may set it too."""
        numbers = self._numbers(training)
        others = [each for each in training.states.values() if isinstance(each, GroupNumbers) and each.key == self.key]
        if any(each.made and _first_difference(numbers, each.made) is None for each in others if each is not state):
            return None
        difference = _first_difference(numbers, state.made)
        if difference is None:
            return None
        now, made = difference
        return f"the {self.type.replace('_', ' ')} is {now:.4g}, and the recipe had set it to {made:.4g}"

    def _numbers(self, training: Training) -> list[list[float]]:
        return [[float(group[self.key]) for group in one.param_groups] for one in training.optimizers]

    def _set(self, group: dict[str, Any], value: float) -> None:
        if isinstance(group[self.key], Tensor):
            group[self.key].fill_(value)
        else:
            group[self.key] = value


def _first_difference(now: Sequence[Sequence[float]], made: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """The first pair that differs by more than rounding; groups that are on one side only are passed over."""
    pairs = (pair for one, other in zip(now, made, strict=False) for pair in zip(one, other, strict=False))
    return next((pair for pair in pairs if not math.isclose(*pair, rel_tol=ROUNDING, abs_tol=1e-30)), None)
