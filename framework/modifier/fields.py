"""A budget: what a model may cost afterwards, as a share of what it cost before."""

from __future__ import annotations

from pydantic import model_validator

from paredown.framework.modifier.base import Options

__all__ = ["Budget"]


class Budget(Options):
    """Base: a subclass has a field for each kind of cost, a share or None; exactly one of them is given."""

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
