"""Points in time of a training run: epochs, optimizer steps, or percent of the run.

All arithmetic is exact (`fractions.Fraction` of the decimal that was written), so a grid never drifts.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

__all__ = ["Span", "Time", "Window"]

Unit = Literal["epochs", "steps", "percent"]
_TEXT = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>steps?|epochs?|%)", re.ASCII)
_LONGEST = 10**15
_UNITS: dict[str, Unit] = {"s": "steps", "e": "epochs", "%": "percent"}


@dataclass(frozen=True)
class Time:
    """A point or a length of time with its unit; units refuse to mix.

    >>> Time.parse(1.5), Time.parse("500 steps"), Time.parse("10%")
    (Time(1.5), Time(500 steps), Time(10%))
    >>> Time.parse("10%").in_epochs(run_epochs=30)
    Fraction(3, 1)
    """

    value: Fraction
    unit: Unit = "epochs"

    @classmethod
    def parse(cls, value: object) -> Time:
        """Read a number of epochs, "N epochs", "N steps" or "P%".

        Raises:
            ValueError: anything else; negative or not finite; a fraction of a step; above 100%.
        """
        if isinstance(value, Time):
            return value
        if isinstance(value, (int, float, Fraction)) and not isinstance(value, bool):
            return cls(_exact(value), "epochs")
        match = _TEXT.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f'{value!r} is no time; write epochs as a number, or "500 steps", or "10%"')
        time = cls(Fraction(match["number"]), _UNITS[match["unit"][0]])
        if time.unit == "steps" and time.value.denominator != 1:
            raise ValueError(f"{value!r}: a number of steps is whole")
        if time.unit == "percent" and time.value > 100:
            raise ValueError(f"{value!r}: at most 100% of the run")
        if time.value > _LONGEST:
            raise ValueError("no run is that long; a time is at most 1e15")
        return time

    def in_epochs(self, run_epochs: float | Fraction | None) -> Fraction | None:
        """The time in epochs; None for steps, and for percent of a run of unknown length."""
        if self.unit == "epochs":
            return self.value
        if self.unit == "percent" and run_epochs is not None:
            return self.value * _exact(run_epochs) / 100
        return None

    def in_steps(self, steps_per_epoch: int, run_epochs: float | Fraction | None) -> Fraction:
        """The time in optimizer steps, exact (not rounded to whole steps).

        Raises:
            ValueError: percent of a run whose length (``run.epochs``) is not given.
        """
        if self.unit == "steps":
            return self.value
        epochs = self.in_epochs(run_epochs)
        if epochs is None:
            raise ValueError(f"{self} needs run.epochs, the length of the run")
        return epochs * steps_per_epoch

    def plain(self) -> int | float | str:
        """What a recipe would say: a number of epochs, "N steps" or "P%"."""
        number = int(self.value) if self.value.denominator == 1 else float(self.value)
        return number if self.unit == "epochs" else f"{number}{'%' if self.unit == 'percent' else ' steps'}"

    def __str__(self) -> str:
        return f"{self.plain()} epochs" if self.unit == "epochs" else str(self.plain())

    def __repr__(self) -> str:
        return f"Time({self.plain()})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda time: time.plain()),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": r"^\s*(\d+(\.\d*)?|\.\d+)\s*(steps?|epochs?|%)\s*$"},
            ],
            "description": 'Epochs as a number, or "500 steps" (optimizer steps), or "10%" of run.epochs.',
        }


@dataclass(frozen=True)
class Span:
    """When a modifier acts, as its recipe has it.

    Attributes:
        name: of the modifier, for errors.
        start: when its window opens.
        end: when its window ends; None: with the run.
        every: distance between updates; None: a fiftieth of the window.
        once: whether its one update, at ``start``, is the final one.
    """

    name: str
    start: Time
    end: Time | None = None
    every: Time | None = None
    once: bool = False


@dataclass(frozen=True)
class Window:
    """A modifier's time in whole optimizer steps: opens when ``start`` steps are done, its final update at ``end``.

    ``first`` and ``last`` are the exact times, ``every`` the exact grid length; a grid point between two steps acts
    at the later one.
    """

    first: Fraction
    last: Fraction
    every: Fraction

    @property
    def start(self) -> int:
        return math.ceil(self.first)

    @property
    def end(self) -> int:
        return math.ceil(self.last)

    def progress(self, step: int) -> float:
        """Share of the window that lies behind, in [0, 1]."""
        if step >= self.end:
            return 1.0
        if step <= self.first:
            return 0.0
        return float((step - self.first) / (self.last - self.first))

    def on_grid(self, step: int) -> bool:
        """Whether an update is due at ``step``: on the grid inside the window, or the final one."""
        if not self.start <= step < self.end:
            return step == self.end
        index = (step - self.first) // self.every  # the last grid point at or before this step
        return step == self.start or math.ceil(self.first + index * self.every) == step


def _exact(number: float | Fraction) -> Fraction:
    if not 0 <= number <= _LONGEST:  # NaN fails both
        default = "; leave the field out for its default, such as the end of the run" if number == -1 else ""
        raise ValueError(f"{number!r} is no time; a time is a finite number, 0 or more, at most 1e15{default}")
    return number if isinstance(number, Fraction) else Fraction(str(number))
