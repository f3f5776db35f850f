"""Reads the fields of an old modifier, and lists those that no translator reads."""

from __future__ import annotations

import re
from typing import Any

from paredown.framework.errors import RecipeError
from paredown.integrations.conversion.dialects import OldModifier
from paredown.integrations.conversion.notes import Notes
from paredown.integrations.conversion.reading import Value, refuse
from paredown.integrations.conversion.variables import Number, Variables

__all__ = ["Fields"]

#: the names of older fields in newer dialects
ALIASES = {
    "start_epoch": "start",
    "end_epoch": "end",
    "update_frequency": "update",
    "params": "targets",
    "inter_func": "update_scheduler",
    "mask_type": "mask_structure",
    "global_sparsity": "apply_globally",
}


class Fields:
    """The fields of one old modifier, and which of them were read."""

    def __init__(self, old: OldModifier, variables: Variables, notes: Notes) -> None:
        self.old, self.variables, self.notes = old, variables, notes
        self.read: set[str] = set()

    def value(self, name: str) -> Value | None:
        """The field, by its name in either dialect; None where it is missing or null."""
        for known in (name, ALIASES.get(name)):
            if known is not None and known in self.old.fields:
                self.read.add(known)
                given = self.variables.resolved(self.old.fields[known], self.old.renamed)
                return None if given.value is None else given
        return None

    def plain(self, name: str, default: Any = None) -> Any:
        """A number, an interpolation, or whatever else was written."""
        value = self.value(name)
        return default if value is None else self.variables.plain(value, self.old.renamed)

    def number(self, name: str, default: Number | None = None) -> Number | None:
        """The number that the field amounts to with the variables as they are."""
        value = self.value(name)
        return default if value is None else self.variables.computed(value, self.old.renamed)

    def flag(self, name: str, default: bool) -> bool:
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value.value, bool):
            raise self.refused(name, f"found {value.plain()!r}; it is true or false")
        return value.value

    def texts(self, name: str) -> list[Value]:
        """The elements of a list of text; one alone counts as a list."""
        value = self.value(name)
        found = [self.variables.resolved(one, self.old.renamed) for one in value.elements] if value else []
        for one in found:
            if not isinstance(one.value, str):
                raise self.refused(name, f"found {one.plain()!r}; names and patterns are text")
            self._check_pattern(name, one.value)
        return found

    def _check_pattern(self, name: str, pattern: str) -> None:
        try:
            re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
        except re.error as error:
            raise self.refused(name, f"{pattern!r} is no regular expression: {error}") from None

    def line(self, name: str) -> int:
        for known in (name, ALIASES.get(name)):
            if known is not None and known in self.old.fields:
                return self.old.fields[known].line
        return self.old.line

    def expect(self, name: str, *harmless: object, reason: str = "no counterpart") -> None:
        """List a field without a counterpart, unless its value is harmless: one that changes nothing."""
        value = self.value(name)
        if value is not None and value.plain() not in harmless:
            self.left_out(name, reason)

    def left_out(self, name: str, reason: str) -> None:
        for known in (name, ALIASES.get(name)):
            if known is not None and known in self.old.fields:
                self.read.add(known)
                name = known
        self.notes.left_out(self.line(name), f"{self.old.title}.{name}", reason)

    def drop(self, reason: str) -> None:
        """List the modifier as a whole among what is not converted."""
        self.notes.left_out(self.old.line, self.old.title, reason)

    def differs(self, reason: str, name: str | None = None) -> None:
        subject = self.old.title if name is None else f"{self.old.title}.{name}"
        self.notes.differs(self.old.line if name is None else self.line(name), subject, reason)

    def refused(self, name: str, problem: str) -> RecipeError:
        return refuse(self.variables.file, self.line(name), f"{self.old.title}.{name}: {problem}")

    def finish(self) -> None:
        """List the fields that nobody read."""
        for name, value in self.old.fields.items():
            if name not in self.read and value.value is not None:
                self.left_out(name, "no counterpart")
