"""Fields that several modifiers have: shares, nested mappings, budgets, and the trials of a sensitivity scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator

from paredown.framework.model.targets import readable

__all__ = ["Budget", "Options", "Pattern", "Patterns", "Share", "Trial"]


Share = Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False)]
#: the name of layers, as in ``targets``; a regular expression that cannot be read is refused with the recipe
Pattern = Annotated[str, AfterValidator(readable)]
#: one or more, where any are given; without them the field's default counts
Patterns = Annotated[tuple[Pattern, ...], Field(min_length=1, validate_default=False)]


class Options(BaseModel):
    """A frozen mapping of fields inside a modifier; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


class Budget(Options):
    """Base of budgets: what a model may cost afterwards, as a share of what it cost before.

    A subclass has a field for each kind of cost, a share or None; one of them is given, or, where it takes several at
    once, one or more.
    """

    #: whether it takes several kinds of cost at once
    several: ClassVar[bool] = False

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if not self.shares or (len(self.shares) > 1 and not self.several):
            known = ", ".join(type(self).model_fields)
            raise ValueError(f"a budget is {'one or more' if self.several else 'one'} of {known}")
        return self

    @property
    def shares(self) -> Mapping[str, float]:
        """What is given, by field."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: float(value) for name, value in values.items() if value is not None}

    @property
    def kind(self) -> str:
        """The name of the field that is given."""
        return next(iter(self.shares))

    @property
    def share(self) -> float:
        """Its value."""
        return self.shares[self.kind]


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
