"""Exact arithmetic on numbers and times of one unit, for `${expr:"..."}`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction

from paredown.framework.modifier.time import Time
from paredown.framework.recipe.tree.positions import shown

__all__ = ["FUNCTIONS", "OPERATORS", "Quantity", "bounded", "negated", "plain_quantity", "quantity"]

#: a number (also of epochs), or a time in steps or percent
Quantity = Fraction | Time

LARGEST = 10**30
MOST_BITS = 2048
LARGEST_EXPONENT = 100

_UNITS = {"epochs": "epochs", "steps": "optimizer steps", "percent": "percent of the run"}


def quantity(value: object) -> Quantity:
    """A value as an expression takes it.

    >>> quantity(0.1), quantity("60%"), quantity("3 epochs")
    (Fraction(1, 10), Time(60%), Fraction(3, 1))

    Raises:
        ValueError: neither a finite number nor a time.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return bounded(Fraction(str(value)) if isinstance(value, float) else Fraction(value))
    if isinstance(value, str):
        try:
            time = Time.parse(value)
        except ValueError:
            raise ValueError(f"{shown(value)} is neither a number nor a time") from None
        return time.value if time.unit == "epochs" else bounded(time)
    raise ValueError(f"{shown(value)} is neither a number nor a time")


def plain_quantity(value: Quantity) -> int | float | str:
    """What a recipe would write; whole numbers come out as integers.

    Raises:
        ValueError: a time before the run, or a part of a step.
    """
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    if value.value < 0:
        raise ValueError(f"the result is {value.plain()}; a time is 0 or more")
    if value.unit == "steps" and value.value.denominator != 1:
        raise ValueError(f"the result is {value.plain()}; a number of steps is whole, round(...) makes it so")
    return value.plain()


def bounded(value: Quantity) -> Quantity:
    """``value``, if it is of a sensible size.

    Raises:
        ValueError: beyond 1e30, or with a fraction of thousands of digits.
    """
    number = _number(value)
    if abs(number) > LARGEST or number.denominator.bit_length() > MOST_BITS:
        raise ValueError("a number in it becomes too large; at most 1e30")
    return value


def negated(value: Quantity) -> Quantity:
    """Minus ``value``."""
    return _like(value, -_number(value))


def _sum(work: Callable[[Fraction, Fraction], Fraction]) -> Callable[[Quantity, Quantity], Quantity]:
    def apply(left: Quantity, right: Quantity) -> Quantity:
        _same_unit(left, right)
        return _like(left, work(_number(left), _number(right)))

    return apply


def _product(left: Quantity, right: Quantity) -> Quantity:
    if isinstance(left, Time) and isinstance(right, Time):
        raise ValueError(f"{left} * {right}: a time is multiplied by a number, not by a time")
    return _like(left if isinstance(left, Time) else right, _number(left) * _number(right))


def _quotient(left: Quantity, right: Quantity) -> Quantity:
    if _number(right) == 0:
        raise ValueError("division by zero")
    ratio = _number(left) / _number(right)
    if isinstance(right, Time):
        _same_unit(left, right)
        return ratio
    return _like(left, ratio)


def _floored(left: Quantity, right: Quantity) -> Quantity:
    ratio = _quotient(left, right)
    return _like(ratio, Fraction(math.floor(_number(ratio))))


def _power(left: Quantity, right: Quantity) -> Quantity:
    if isinstance(left, Time) or isinstance(right, Time):
        raise ValueError("a time has no power; ** takes numbers")
    if abs(right) > LARGEST_EXPONENT:
        raise ValueError(f"an exponent of {float(right):g}; at most {LARGEST_EXPONENT}")
    if left == 0 and right < 0:
        raise ValueError("division by zero")
    if right.denominator == 1:
        return Fraction(left ** int(right))
    if left < 0:
        raise ValueError("a root of a negative number")
    return Fraction(str(float(left) ** float(right)))


def _modulo(left: Quantity, right: Quantity) -> Quantity:
    _same_unit(left, right)
    if _number(right) == 0:
        raise ValueError("division by zero")
    return _like(left, _number(left) % _number(right))


def _extreme(choose: Callable[..., Fraction]) -> Callable[..., Quantity]:
    def apply(*values: Quantity) -> Quantity:
        for value in values[1:]:
            _same_unit(values[0], value)
        return _like(values[0], choose(_number(value) for value in values))

    return apply


def _rounded(value: Quantity, digits: Quantity = Fraction(0)) -> Quantity:
    if not isinstance(digits, Fraction) or digits.denominator != 1 or not 0 <= digits <= 12:
        raise ValueError("round(value, digits) takes 0 to 12 digits")
    return _like(value, Fraction(round(_number(value), int(digits))))


def _whole(value: Quantity) -> Quantity:
    return _like(value, Fraction(int(_number(value))))


def _float(value: Quantity) -> Quantity:
    if isinstance(value, Time):
        raise ValueError(f"float({value}): a time keeps its unit; divide by a time of the same unit for a number")
    return value


def _number(value: Quantity) -> Fraction:
    return value.value if isinstance(value, Time) else value


def _like(model: Quantity, number: Fraction) -> Quantity:
    return Time(number, model.unit) if isinstance(model, Time) else number


def _same_unit(left: Quantity, right: Quantity) -> None:
    units = [_UNITS[value.unit] if isinstance(value, Time) else "a number (of epochs)" for value in (left, right)]
    if units[0] != units[1]:
        texts = [str(value) if isinstance(value, Time) else f"{float(value):g}" for value in (left, right)]
        raise ValueError(f"{texts[0]} and {texts[1]} do not mix: {units[0]} and {units[1]}")


OPERATORS: dict[str, Callable[[Quantity, Quantity], Quantity]] = {
    "+": _sum(operator.add),
    "-": _sum(operator.sub),
    "*": _product,
    "/": _quotient,
    "//": _floored,
    "**": _power,
}
#: name -> (function, fewest arguments, most arguments)
FUNCTIONS: dict[str, tuple[Callable[..., Quantity], int, int]] = {
    "min": (_extreme(min), 1, 20),
    "max": (_extreme(max), 1, 20),
    "round": (_rounded, 1, 2),
    "mod": (_modulo, 2, 2),
    "int": (_whole, 1, 1),
    "float": (_float, 1, 1),
}
