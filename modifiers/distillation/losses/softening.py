"""A temperature that may move over the window."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator
from torch import Tensor

from paredown.framework.modifier.curves import ScheduledNumber, ends_of, moves, value_at

__all__ = ["Temperature", "moving", "temperature_in"]


def _above_zero(temperature: Any) -> Any:
    if any(end <= 0 for end in ends_of(temperature)):
        raise ValueError("a temperature is above 0")
    return temperature


Temperature = Annotated[ScheduledNumber, AfterValidator(_above_zero)]


def moving(temperature: Any, progress: float) -> dict[str, float]:
    """The setting that a modifier's temperature is, where it moves; none otherwise."""
    return {"temperature": value_at(temperature, progress)} if moves(temperature) else {}


def temperature_in(settings: dict[str, Tensor], temperature: Any) -> float | Tensor:
    """The tensor that holds a moving temperature, or the number that it always is."""
    return settings.get("temperature", value_at(temperature, 1.0))
