"""Validates one modifier: looks up its class by its type, which then validates the fields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from paredown.framework.errors import Mistake, did_you_mean
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.registry import Registry
from paredown.framework.modifier.time import Time
from paredown.framework.recipe.checking.mistakes import field_mistakes
from paredown.framework.recipe.tree.nodes import Node
from paredown.framework.recipe.tree.positions import Path, dotted, from_where, shown

__all__ = ["ModifierValidation"]


class ModifierValidation:
    """Validates the modifiers of one recipe.

    Attributes:
        mistakes: what was found so far.
        times_alone: of modifiers with a mistake, what could be read of their windows.
    """

    def __init__(self, root: Node, broken: frozenset[Path], registry: Registry) -> None:
        self.root = root
        self.broken = broken
        self.registry = registry
        self.mistakes: list[Mistake] = []
        self.times_alone: list[Modifier] = []

    def modifier(self, name: str) -> Modifier | None:
        """The modifier of that name, or None (then there is a mistake)."""
        at: Path = ("modifiers", name)
        node = self.root.at(at)
        modifier = self._class(node, at) if node is not None else None
        if node is None or modifier is None:
            return None
        try:
            made = modifier.model_validate(node.plain())
        except ValidationError as error:
            self.times_alone.append(_window_of(node, name))
            mistakes = field_mistakes(error, modifier, self.root, at)
            self.mistakes.extend(mistake for mistake in mistakes if not self._follows_from_broken(mistake, at))
            return None
        except Exception as error:  # a plug-in's validators may fail in any way
            message = f"{modifier.__name__} failed to read its fields: {type(error).__name__}: {str(error)[:200]}"
            self.mistakes.append(self.root.place(at)[0].mistake(message, at))
            return None
        return made.named(name)

    def _follows_from_broken(self, mistake: Mistake, at: Path) -> bool:
        """Whether it complains of a value that did not resolve, or may do so as it looks at all fields at once."""
        broken = [path for path in self.broken if path[: len(at)] == at]
        return bool(broken) and (
            mistake.path == dotted(at) or any(dotted(path).startswith(mistake.path) for path in broken)
        )

    def _near_sibling(self, at: Path) -> str:
        """The end of a message that names the modifier that was meant: an override may have its name wrong."""
        siblings = self.root.at(at[:-1])
        named = {} if siblings is None else siblings.mapping or {}
        typed = [name for name, node in named.items() if name != at[-1] and node.child("type") is not None]
        return did_you_mean(str(at[-1]), typed)

    def _class(self, node: Node, at: Path) -> type[Modifier] | None:
        if node.mapping is None:
            self.mistakes.append(self._no_mapping(node, at))
            return None
        name = node.mapping.get("type")
        if name is None:
            if (*at, "type") not in self.broken:
                near = self._near_sibling(at)
                message = f"type is required{near or '; one of ' + ', '.join(self.registry.types)}"
                self.mistakes.append(self.root.place(at, of_key=True)[0].mistake(message, (*at, "type")))
            return None
        found = self.registry.types.get(name.value) if isinstance(name.value, str) else None
        if found is None:
            place, origin = self.root.place((*at, "type"))
            message = self._unknown_type(name.plain()) + from_where(origin)
            self.mistakes.append(place.mistake(message, (*at, "type")))
        return found

    def _no_mapping(self, node: Node, at: Path) -> Mistake:
        place = self.root.place(at, of_key=node.value is None)[0]
        if node.value is None:
            others = [str(name) for name, child in self._siblings() if child.value is not None]
            message = f"null removes an inherited modifier, and there is no {str(at[-1])!r} to remove"
            return place.mistake(message + did_you_mean(str(at[-1]), others), at)
        return place.mistake(f"found {shown(node.plain())}; a modifier is a mapping with a type and its fields", at)

    def _siblings(self) -> Iterator[tuple[str | int, Node]]:
        modifiers = self.root.at(("modifiers",))
        return modifiers.children() if modifiers is not None else iter(())

    def _unknown_type(self, name: object) -> str:
        types, failures = self.registry.types, self.registry.failures
        if isinstance(name, str) and name in failures:
            return f"the plug-in that brings {name!r} failed to import: {failures[name]}"
        near = did_you_mean(name, types) if isinstance(name, str) else ""
        return f"unknown type {shown(name)}; the types are {', '.join(types) or 'none'}{near}"


def _window_of(node: Node, name: str) -> Modifier:
    """A modifier with nothing but the times that are right, so that these are checked too."""
    times: dict[str, Any] = {}
    for field in ("start", "end"):
        child = (node.mapping or {}).get(field)
        with suppress(ValueError):
            times |= {field: Time.parse(child.plain())} if child is not None else {}
    return Modifier.model_construct(set(times), type="", **times).named(name)
