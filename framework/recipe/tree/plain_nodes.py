"""Python values (a dict, a variable, an override) to a tree of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from paredown.framework.errors import RecipeError
from paredown.framework.modifier.time import Time
from paredown.framework.recipe.tree.nodes import DEEPEST, Node, Scalar
from paredown.framework.recipe.tree.positions import Path, Position, dotted, shown

__all__ = ["plain_node", "repositioned"]

LARGEST_INTEGER = 10**40


def plain_node(value: object, position: Position, path: Path = ()) -> Node:
    """A tree whose every node stands at ``position``.

    Raises:
        RecipeError: a value that a recipe cannot hold, or nesting without end.
    """
    if len(path) > DEEPEST:
        raise RecipeError([position.mistake(f"nested more than {DEEPEST} levels deep", dotted(path[:3]))])
    if isinstance(value, Mapping):
        node = Node(
            {_key(key): plain_node(child, position, (*path, _key(key))) for key, child in value.items()}, position
        )
    elif isinstance(value, (list, tuple)):
        node = Node(tuple(plain_node(child, position, (*path, i)) for i, child in enumerate(value)), position)
    else:
        node = Node(_scalar(value, position, path), position)
    if node.excess:
        raise RecipeError([position.mistake(node.excess, path)])
    return node


def repositioned(node: Node, position: Position) -> Node:
    """The same values, all at one place."""
    value = node.value
    if isinstance(value, Mapping):
        value = {name: repositioned(child, position) for name, child in value.items()}
    elif isinstance(value, tuple):
        value = tuple(repositioned(child, position) for child in value)
    return replace(node, value=value, position=position, key=None)


def _scalar(value: object, position: Position, path: Path) -> Scalar:
    if isinstance(value, Time):
        return value.plain()
    if isinstance(value, Fraction):
        return float(value)
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise RecipeError([position.mistake("a number too large for a recipe", path)])
    if value is None or isinstance(value, (bool, int, float, str)):
        return _bare(value)
    kind = type(value).__name__
    raise RecipeError(
        [position.mistake(f"a value of type {kind!r}; a recipe holds numbers, texts, lists, mappings", path)]
    )


def _bare(value: Scalar) -> Scalar:
    """Without a subclass (numpy.float64, an enumeration of str)."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value) if kind is not str else str.__str__(str(value))
    return None


def _key(key: object) -> str:
    return key if type(key) is str else str(key) if isinstance(key, (str, int, float)) else shown(key)
