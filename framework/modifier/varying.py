"""A number that may move over a modifier's window: how it is said in a recipe, and what it is when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Strict

from paredown.framework.modifier.base import Options
from paredown.framework.modifier.curves import Curve, Points, curve_points, curve_value

__all__ = ["Number", "Ramp", "Varying", "ends_of", "moves", "value_at"]

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
FORMS_TOLD = "a number, points [[progress, value], ...], or {initial: 0, final: 0.9, curve: linear}"


class Ramp(Options):
    """``{initial: 0, final: 0.9, curve: linear}``: from one value to another over the window."""

    initial: Number
    """Value at the start of the window."""
    final: Number
    """Value at the end of the window."""
    curve: Curve = "linear"
    """How it moves between them."""


def _picked(value: Any) -> Any:
    """Pick the form, so that a mistake is told about that form alone."""
    if isinstance(value, dict):
        return Ramp.model_validate(value)
    if isinstance(value, (list, tuple)):
        return curve_points(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, Ramp)):
        raise ValueError(f"{value!r} is no value over time; {FORMS_TOLD}")
    return value


Varying = Annotated[Number | Points | Ramp, BeforeValidator(_picked)]


def moves(value: float | Points | Ramp) -> bool:
    """Whether it is not the same number all the time."""
    return not isinstance(value, (int, float))


def value_at(value: float | Points | Ramp, progress: float) -> float:
    """What it is at a share of the window, in [0, 1].

    >>> value_at(0.9, 0.5), value_at(((0.0, 0.0), (0.5, 0.8)), 0.25), value_at(Ramp(initial=1, final=3), 0.5)
    (0.9, 0.4, 2.0)
    """
    if isinstance(value, Ramp):
        return curve_value(value.curve, progress, value.initial, value.final)
    return curve_value(value, progress, 0.0, 0.0) if isinstance(value, tuple) else float(value)


def ends_of(value: float | Points | Ramp) -> Sequence[float]:
    """The values between which it stays."""
    if isinstance(value, Ramp):
        points = () if isinstance(value.curve, str) else tuple(number for _, number in value.curve)
        return points or (value.initial, value.final)
    return [number for _, number in value] if isinstance(value, tuple) else [value]
