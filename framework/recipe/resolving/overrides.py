"""Applies overrides (`modifiers.prune.end=20`, `+a.b=1`, `~a.b`) and variables that are given in Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from paredown.framework.errors import Mistake, RecipeError, did_you_mean
from paredown.framework.recipe.tree.merging import merged, without, wrapped
from paredown.framework.recipe.tree.nodes import Node, plain_node, repositioned
from paredown.framework.recipe.tree.positions import Path, Position, dotted, shown
from paredown.framework.recipe.tree.writing import FIELDS
from paredown.framework.recipe.tree.yaml_nodes import read_yaml

__all__ = ["misspelt_variables", "overridden", "with_variables"]

_OVERRIDE = re.compile(r"(?P<sign>\+{0,2}|~)(?P<path>[^=\s~+]+)(?:=(?P<value>.*))?", re.DOTALL)
_WORD = re.compile(r"[\w-]+")


class _Override(NamedTuple):
    sign: str
    path: Path
    value: Node | None
    position: Position


def overridden(root: Node, overrides: Iterable[str]) -> tuple[Node, list[Mistake]]:
    """Apply overrides in their order; the position of what they set is "override 2" (counted from 1)."""
    mistakes: list[Mistake] = []
    for number, text in enumerate(overrides, 1):
        position = Position(f"override {number}")
        try:
            root = _applied(root, _parsed(text, position))
        except RecipeError as error:
            mistakes.extend(error.errors)
    return root, mistakes


def with_variables(root: Node, variables: Mapping[str, object]) -> tuple[Node, list[Mistake]]:
    """Set values under ``variables`` that the recipe names already."""
    mistakes: list[Mistake] = []
    for name, value in variables.items():
        position = Position(f"variable {name}")
        path: Path = ("variables", str(name))
        try:
            _require(root, path, position)
            root = merged(root, wrapped(plain_node(value, position, path), path))
        except RecipeError as error:
            mistakes.extend(error.errors)
    return root, mistakes


def misspelt_variables(root: Node) -> list[Mistake]:
    """Mistakes for variables that nothing refers to while something refers to one of nearly that name.

    A recipe in an app's config can have them: an override of the app may set a variable that the recipe does not have.
    """
    variables = root.child("variables")
    named = {} if variables is None else variables.mapping or {}
    words = set(_words(root))
    used = [name for name in named if name in words]
    mistakes = []
    for name, node in named.items():
        if name not in words and (near := did_you_mean(name, used)):
            mistakes.append(node.position.mistake(f"nothing refers to it{near}", ("variables", name)))
    return mistakes


def _parsed(text: str, position: Position) -> _Override:
    match = _OVERRIDE.fullmatch(text) if isinstance(text, str) else None
    if match is None or not all(match["path"].split(".")):
        raise RecipeError([position.mistake(f"{shown(text)}; write a.b=value, +a.b=value, or ~a.b")])
    path = tuple(match["path"].split("."))
    if match["sign"] == "~":
        return _Override("~", path, None, position)
    if not match["value"]:
        raise RecipeError([position.mistake(f"{shown(text)} has no value; a.b=null removes one", path)])
    return _Override(match["sign"], path, _value(match["value"], path, position), position)


def _value(text: str, path: Path, position: Position) -> Node:
    try:
        node, mistakes = read_yaml(text, str(position))
    except RecipeError as error:
        mistakes = list(error.errors)
    if mistakes:
        raise RecipeError([position.mistake(f"{shown(text)}: {mistake.message}", path) for mistake in mistakes])
    return repositioned(node, position)


def _applied(root: Node, override: _Override) -> Node:
    if override.value is None:
        _require(root, override.path, override.position)
        return without(root, override.path)
    if near := _meant(root, override):
        raise RecipeError(
            [override.position.mistake(f"a recipe has no {str(override.path[0])!r}{near}", override.path)]
        )
    if "+" not in override.sign:
        _require(root, _must_exist(override.path), override.position)
    _refuse_list_items(root, override)
    return merged(root, wrapped(override.value, override.path))


def _must_exist(path: Path) -> Path:
    """The part that the recipe must name already; fields of a modifier and of `run` may be new, and are validated."""
    return path[:2] if path[0] in ("modifiers", "variables") else ()


def _meant(root: Node, override: _Override) -> str:
    """The end of a message that names the place that was meant: a variable's or a modifier's, written without it."""
    if override.path[0] in FIELDS or root.at(override.path[:1]) is not None or "+" in override.sign:
        return ""
    places = [(part, *override.path) for part in ("variables", "modifiers") if root.at((part, *override.path[:1]))]
    modifiers = root.child("modifiers")
    named = {} if modifiers is None else modifiers.mapping or {}
    places += [("modifiers", name, *override.path) for name, one in named.items() if one.child(override.path[0])]
    return f"; did you mean {' or '.join(map(dotted, places))}?" if places else ""


def _refuse_list_items(root: Node, override: _Override) -> None:
    for length in range(1, len(override.path)):
        above = root.at(override.path[:length])
        if above is not None and isinstance(above.value, tuple):
            message = f"{dotted(override.path[:length])} is a list; give the whole list"
            raise RecipeError([override.position.mistake(message, override.path)])


def _require(root: Node, path: Path, position: Position) -> None:
    for length in range(1, len(path) + 1):
        if root.at(path[:length]) is not None:
            continue
        siblings = (root.at(path[: length - 1]) or root).mapping or {}
        near = did_you_mean(str(path[length - 1]), siblings)
        where = dotted(path[: length - 1]) or "the recipe"
        known = "" if near or not siblings else f"; {where} has {', '.join(list(siblings)[:20])}"
        raise RecipeError([position.mistake(f"{where} has no {str(path[length - 1])!r}{near or known}", path)])


def _words(node: Node) -> Iterator[str]:
    """The words of everything interpolated."""
    if isinstance(node.value, str) and "${" in node.value:
        yield from _WORD.findall(node.value)
    for _, child in node.children():
        yield from _words(child)
