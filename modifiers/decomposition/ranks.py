"""How a rank is said in a recipe, and what it means for a matrix."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Strict

from paredown.framework.modifier import Options

__all__ = ["Energy", "Rank", "Ratio"]


class Ratio(Options):
    """``{ratio: 2}``: the layer's parameters divided by two."""

    ratio: Annotated[float, Strict(), Field(gt=1, allow_inf_nan=False)]
    """By what the layer's parameters are divided."""


class Energy(Options):
    """``{energy: 0.95}``: the smallest rank that keeps this share of the squared singular values."""

    energy: Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)]
    """Share of the squared singular values that is kept."""


FORMS: dict[str, type[Options]] = {"ratio": Ratio, "energy": Energy}


def _chosen(value: Any) -> Any:
    """Pick the form by its one key, so that a mistake is told about that form alone."""
    if isinstance(value, dict):
        if len(value) != 1 or next(iter(value)) not in FORMS:
            raise ValueError(f"{value!r} is no rank; an integer, {{ratio: 2}} or {{energy: 0.95}}")
        return FORMS[next(iter(value))].model_validate(value)
    if isinstance(value, bool) or not isinstance(value, (int, Ratio, Energy)):
        raise ValueError(f"{value!r} is no rank; an integer, {{ratio: 2}} or {{energy: 0.95}}")
    return value


Rank = Annotated[
    Annotated[int, Strict(), Field(ge=1)] | Ratio | Energy,
    BeforeValidator(_chosen),
    Field(description="An integer (clamped to the full rank), {ratio: 2} or {energy: 0.95}."),
]
