"""Finds the length of an old recipe's run: the last end of its modifiers."""

from __future__ import annotations

from collections.abc import Iterable

from paredown.integrations.conversion.dialects import OldModifier
from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.notes import Notes
from paredown.integrations.conversion.variables import Number, Variables

__all__ = ["run_length"]

EPOCHS = "num_epochs"


def run_length(modifiers: Iterable[OldModifier], variables: Variables) -> tuple[object, Number] | None:
    """`run.epochs` as the new recipe writes it, and as a number; None where nothing defines it."""
    ends: list[tuple[object, Number]] = []
    for old in sorted(modifiers, key=lambda one: one.name != "EpochRangeModifier"):
        fields = Fields(old, variables, Notes())
        amount = fields.number("end_epoch", -1)
        if amount is not None and amount > 0:
            ends.append((fields.plain("end_epoch"), amount))
    given = variables.values.get(EPOCHS)
    if not ends and given is not None and (amount := variables.computed(given, {})) is not None:
        return f"${{variables.{EPOCHS}}}", amount
    return max(ends, key=lambda end: end[1]) if ends else None
