"""The base of the distillation modifiers: a term of the loss, whose weight may move over the window."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor

from paredown.framework.auxiliary.losses import Pass, Term
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.curves import ScheduledNumber, ends_of, moves, value_at
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training

__all__ = ["Compute", "Distillation"]

Compute = Callable[[Pass], Tensor]
NO_TIME = Time.parse(0)


class Distillation(Modifier):
    """Base: while the window is open, a term is part of the loss.

    A subclass gives the term; the manager brings it into the gradient. What it builds beside the model, links and
    extras, goes when the window ends.
    """

    needs_training: ClassVar = True

    mode: Literal["mix", "add"] = "mix"
    """``mix``: the total is (1 - weight) x the loop's loss + weight x the term. ``add``: the loop's loss stays
    whole."""
    weight: ScheduledNumber = 0.9
    """Of the term: a number, or a curve over the window."""
    warmup: Time | None = None
    """Over how long the weight rises linearly from 0 at the start of the window; at most half of the window.
    Default: no time."""

    @field_validator("weight")
    @classmethod
    def _weighs_in_range(cls, weight: Any, info: ValidationInfo) -> Any:
        most = 1.0 if info.data.get("mode") == "mix" else float("inf")
        if any(not 0 <= end <= most for end in ends_of(weight)):
            allowed = "0..1; mode: add takes larger ones" if most == 1 else "0 or more"
            raise ValueError(f"a weight is {allowed}")
        return weight

    @abstractmethod
    def term(self, training: Training, state: Any, settings: dict[str, Tensor]) -> Compute:
        """Build the function that computes the term; it reads the moving settings from the tensors it is given."""

    @property
    def warming(self) -> Time:
        """The warmup that is meant."""
        return NO_TIME if self.warmup is None else self.warmup

    def settings(self, progress: float) -> dict[str, float]:
        """Further numbers that move over the window."""
        return {}

    def attach(self, training: Training, state: Any) -> None:
        if training.progress >= 1:
            return
        numbers = self.settings(training.progress)
        settings = {name: training.losses.number(value) for name, value in numbers.items()}
        compute = _following(training, self.term(training, state, settings))
        training.losses.add(Term(compute, self._weight_now(training), self.mode == "add", settings))

    def on_step(self, training: Training, state: Any) -> None:
        if moves(self.weight) or self.warming.value or self.settings(0.0):
            training.losses.set(self._weight_now(training), self.settings(training.progress))

    def on_end(self, training: Training, state: Any) -> None:
        self.detach(training, state)

    def unreached(self, training: Training, state: Any) -> str | None:
        if training.ended:
            return None
        wanted = {"weight": value_at(self.weight, 1.0), **self.settings(1.0)}
        reached = {"weight": 0.0}
        if training.entered:
            reached = {"weight": self._weight_now(training), **self.settings(training.progress)}
        short = [
            f"its {name} reached {reached[name]:.4g} and is to reach {wanted[name]:.4g}"
            for name in reached
            if abs(reached[name] - wanted[name]) > 1e-9 * max(1.0, abs(wanted[name]))
        ]
        return ", ".join(short) or None

    def detach(self, training: Training, state: Any) -> None:
        training.losses.remove()
        training.links.remove()
        training.modules.remove()

    def _weight_now(self, training: Training) -> float:
        return value_at(self.weight, training.progress) * self._warmed_up(training)

    def _warmed_up(self, training: Training) -> float:
        window = training.window
        if training.clock is None or window is None or not self.warming.value:
            return 1.0
        half = float(window.end - window.start) / 2
        steps = max(min(float(training.clock.in_steps(self.warming)), half), 1.0)
        return min((training.clock.steps - float(window.start) + 1) / steps, 1.0)


def _following(training: Training, compute: Compute) -> Compute:
    """Auxiliary modules go where the model goes, before they are used."""

    def followed(forward: Pass) -> Tensor:
        if not torch.compiler.is_compiling():
            training.modules.follow(training.model)
        return compute(forward)

    return followed
