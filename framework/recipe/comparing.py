"""Compares two recipes by what will run: resolved values and defaults, not their text, order or comments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.time import Time
from paredown.framework.recipe.recipe import Recipe

__all__ = ["ABSENT", "Difference", "differences", "window_text"]

#: the value at a path that a recipe does not have
ABSENT = "-"


@dataclass(frozen=True)
class Difference:
    """A value that two recipes do not share: its path, and the value of each recipe (`ABSENT` where it has none)."""

    path: str
    first: Any
    second: Any


def differences(first: Recipe, second: Recipe) -> list[Difference]:
    """The values in which two recipes differ; empty where they would run the same.

    Names, descriptions, tags, results and variables that lead to the same values do not count; a field that is written
    with its default equals one that is left out. Of modifiers that start together the order counts.

    >>> differences(Recipe.load("prune90"), Recipe.load("prune90", ["modifiers.prune.scope=local"]))
    [Difference(path='modifiers.prune.scope', first='global', second='local')]
    """
    ours, theirs = _meaning(first, second), _meaning(second, first)
    paths = [*ours, *(path for path in theirs if path not in ours)]
    values = [(path, ours.get(path, ABSENT), theirs.get(path, ABSENT)) for path in paths]
    return [Difference(path, one, other) for path, one, other in values if one != other]


def window_text(modifier: Modifier | None) -> str:
    """The window of a modifier in the words of its recipe; `ABSENT` for None.

    >>> window_text(None)
    '-'
    """
    if modifier is None:
        return ABSENT
    end = "" if modifier.acts_once else f" to {'the end' if modifier.end is None else modifier.end.plain()}"
    return f"{modifier.start.plain()}{end}"


def _meaning(recipe: Recipe, other: Recipe) -> dict[str, Any]:
    """What will run, as plain values by dotted path; of a modifier that the other recipe lacks its type alone."""
    found: dict[str, Any] = {"run.epochs": recipe.run_epochs}
    for name, modifier in recipe.modifiers.items():
        path = f"modifiers.{name}"
        shared = name in other.modifiers and other.modifiers[name].type == modifier.type
        found.update(dict(_flat(path, modifier, recipe.run_epochs)) if shared else {f"{path}.type": modifier.type})
    for start, names in _together(recipe).items():
        if len(names) > 1:
            found[f"order of what starts at {start}"] = ", ".join(names)
    return found


def _together(recipe: Recipe) -> dict[str, list[str]]:
    """The modifiers that start together, in their order."""
    groups: dict[str, list[str]] = {}
    for name, modifier in recipe.modifiers.items():
        groups.setdefault(str(modifier.start.plain()), []).append(name)
    return groups


def _flat(path: str, value: Any, run_epochs: float | None) -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        yield from _flat(path, fields, run_epochs)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{path}.{key}", part, run_epochs)
    elif isinstance(value, Time):
        epochs = value.in_epochs(run_epochs) if value.unit == "percent" and run_epochs is not None else None
        yield path, value.plain() if epochs is None else float(epochs)
    else:
        yield path, list(value) if isinstance(value, tuple) else value
