"""Fields that several modifiers have: shares, nested mappings, budgets, and the trials of a sensitivity scan."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

__all__ = ["Budget", "Options", "Share", "Trial"]


Share = Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False)]


class Options(BaseModel):
    """A frozen mapping of fields inside a modifier; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


class Budget(Options):
    """Base of budgets: what a model may cost afterwards, as a share of what it cost before.

    A subclass has a field for each kind of cost, a share or None; exactly one of them is given.
    """

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError(f"a budget is one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def kind(self) -> str:
        """The name of the field that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def share(self) -> float:
        """Its value."""
        return float(getattr(self, self.kind))


@dataclass(frozen=True)
class Trial:
    """One layer at one setting, a number of ``unit`` ("bits", or "% zeros" where the number is a share of 1).

    ``treated()`` is a context in which the model has it; ``cost`` is what the layer costs then, as a modifier counts,
    and ``whole`` what it costs untreated.
    """

    layer: str
    setting: Any
    unit: str
    cost: float
    whole: float
    treated: Callable[[], AbstractContextManager[None]]
