"""Curves: how a number moves over a window, as pure functions of progress in [0, 1].

Every named curve is exact at both ends (``constant`` is ``final`` from the start) and monotone between them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict

from paredown.framework.modifier.fields import Options

__all__ = [
    "CURVES",
    "Curve",
    "Number",
    "Points",
    "Ramp",
    "ScheduledNumber",
    "curve_points",
    "curve_value",
    "ends_of",
    "moves",
    "share_of",
    "value_at",
]

CurveName = Literal["linear", "cubic", "cosine", "exponential", "constant"]

#: share of the way from initial to final that is left at progress p
CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda p: 1 - p,
    "cubic": lambda p: (1 - p) ** 3,
    "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2,
    "exponential": lambda p: (math.exp(-5 * p) - math.exp(-5)) / (1 - math.exp(-5)),
    "constant": lambda p: 0.0,
}


def curve_points(value: Any) -> Any:
    """Points of a curve as tuples, checked; text is passed on. Raises ValueError."""
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)) or len(value) < 1:
        raise ValueError(f"{value!r} is no curve; one of {', '.join(CURVES)}, or points such as [[0, 0.5], [0.3, 0.8]]")
    points = tuple(_point(pair) for pair in value)
    places = [place for place, _ in points]
    if any(later <= earlier for earlier, later in pairwise(places)):
        raise ValueError(f"{value!r}: the points of a curve come in rising order of progress")
    return points


def _point(pair: Any) -> tuple[float, float]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(_is_number(number) for number in pair):
        raise ValueError(f"{pair!r} is no point of a curve; write [progress, value]")
    if not 0 <= pair[0] <= 1:
        raise ValueError(f"{pair!r}: progress lies in 0..1")
    return float(pair[0]), float(pair[1])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


Points = tuple[tuple[float, float], ...]
Curve = Annotated[
    CurveName | Points,
    BeforeValidator(curve_points, json_schema_input_type=CurveName | list[tuple[float, float]]),
    Field(description="How a value moves over the window: a name, or points [[progress, value], ...]."),
]


def curve_value(curve: CurveName | Points, progress: float, initial: float, final: float) -> float:
    """The value at ``progress`` (clamped to [0, 1]) of a curve from ``initial`` to ``final``.

    linear, cubic f + (i - f)(1 - p)^3 (Zhu & Gupta, 2017, arXiv:1710.01878), cosine, exponential
    f + (i - f)(e^-5p - e^-5)/(1 - e^-5), constant (f from the start); or points (p, value), joined by straight lines
    and level outside of them, which give the values themselves.

    >>> curve_value("cubic", 0.5, 0.0, 1.0)
    0.875
    >>> curve_value(((0.0, 0.5), (0.5, 0.8)), 0.25, 0.0, 1.0)
    0.65
    """
    progress = min(max(progress, 0.0), 1.0)
    if not isinstance(curve, str):
        return _between(curve, progress)
    if progress in (0.0, 1.0) and curve != "constant":
        return final if progress else initial
    return final + (initial - final) * CURVES[curve](progress)


def _between(points: Sequence[tuple[float, float]], progress: float) -> float:
    index = bisect_right([place for place, _ in points], progress)
    if index in (0, len(points)):
        return points[max(index - 1, 0)][1]
    (left, low), (right, high) = points[index - 1], points[index]
    return low + (high - low) * (progress - left) / (right - left)


def share_of(share: float, total: int) -> int:
    """How many of ``total`` a share means: floor(share x total + 1/2), exact for the decimal that was written.

    >>> share_of(0.35, 10), share_of(0.9, 7)
    (4, 6)
    """
    return math.floor(Fraction(str(share)) * total + Fraction(1, 2))


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
    """Pick the form, so that a mistake is reported for that form alone."""
    if isinstance(value, dict):
        return Ramp.model_validate(value)
    if isinstance(value, (list, tuple)):
        return curve_points(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, Ramp)):
        raise ValueError(f"{value!r} is no value over time; {FORMS_TOLD}")
    return value


ScheduledNumber = Annotated[Number | Points | Ramp, BeforeValidator(_picked)]


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
