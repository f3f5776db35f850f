"""The variables of an old recipe: their values, and which of them the new recipe keeps."""

from __future__ import annotations

import math

from paredown.framework.recipe.resolving.expression import evaluate
from paredown.integrations.conversion.dialects import OldRecipe
from paredown.integrations.conversion.expressions import is_evaluated, names_in, parts_of, written
from paredown.integrations.conversion.reading import Value, refuse

__all__ = ["Variables"]

Number = int | float


class Variables:
    """Looks up variables. Numbers stay variables; text, lists and switches are written where they were used."""

    def __init__(self, recipe: OldRecipe) -> None:
        self.file = recipe.file
        self.values = recipe.variables
        #: those that were written in place of their name
        self.inlined: set[str] = set()
        #: the length of the run, 0 where it has none
        self.epochs: float = 0

    def kept(self) -> dict[str, object]:
        """The variables of the new recipe."""
        return {name: self.plain(value, {}) for name, value in self.values.items() if self._is_number(value)}

    def resolved(self, value: Value, renamed: dict[str, str]) -> Value:
        """The value, or that of the variable that it names, where that is no number."""
        name = self._only_name(value, renamed)
        if name is None or self._is_number(self.values[name]):
            return value
        self.inlined.add(name)
        found = self.values[name]
        return self.resolved(Value(found.value, value.line), {})

    def plain(self, value: Value, renamed: dict[str, str]) -> object:
        """A number, or an interpolation that gives one; what is neither comes back as it is."""
        if not is_evaluated(value.value):
            number = _number(value.value)
            return value.plain() if number is None else number
        self.computed(value, renamed)
        return written(parts_of(value.value), lambda name: renamed.get(name, name))

    def computed(self, value: Value, renamed: dict[str, str]) -> Number | None:
        """The number that a value amounts to with the variables as they are, if it is one.

        Raises:
            RecipeError: an expression that does not give one, with its line.
        """
        return self._computed(value, renamed, ())

    def _computed(self, value: Value, renamed: dict[str, str], open_names: tuple[str, ...]) -> Number | None:
        if not is_evaluated(value.value):
            return _number(value.value)
        self._check(value, renamed)
        parts: list[str | tuple[object]] = []
        for part in parts_of(value.value):
            if isinstance(part, str):
                parts.append(part)
                continue
            name = renamed.get(part[0], part[0])
            if name in open_names or len(open_names) > 50:
                raise refuse(self.file, value.line, f"the variable {name!r} is defined by itself")
            parts.append((self._computed(self.values[name], {}, (*open_names, name)),))
        try:
            result = evaluate(parts)
        except ValueError as error:
            raise refuse(self.file, value.line, f"{value.value}: {error}") from None
        return result if not isinstance(result, str) else None

    def _check(self, value: Value, renamed: dict[str, str]) -> None:
        try:
            names = names_in(value.value)
        except ValueError as error:
            raise refuse(self.file, value.line, f"{value.value}: {error}") from None
        for name in names:
            if renamed.get(name, name) not in self.values:
                raise refuse(self.file, value.line, f"{value.value}: there is no variable {name!r}")

    def _only_name(self, value: Value, renamed: dict[str, str]) -> str | None:
        if not is_evaluated(value.value):
            return None
        self._check(value, renamed)
        parts = parts_of(value.value)
        only = parts[0] if len(parts) == 1 else None
        return renamed.get(only[0], only[0]) if isinstance(only, tuple) else None

    def _is_number(self, value: Value) -> bool:
        if (name := self._only_name(value, {})) is not None and self._only_name(self.values[name], {}) is None:
            return self._is_number(self.values[name])
        return is_evaluated(value.value) or _number(value.value) is not None


def _number(value: object) -> Number | None:
    """A number, also one in quotes or such as `1e-3`, which the old loader took for text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) else None
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if number is None or not math.isfinite(number):
        return None
    return int(number) if str(value).strip().lstrip("+-").isdigit() else number
