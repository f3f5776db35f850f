"""The tree of a recipe: nodes with plain values, each with the position where it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from paredown.framework.errors import RecipeError
from paredown.framework.modifier.time import Time
from paredown.framework.recipe.tree.positions import Path, Position, dotted, shown

__all__ = ["DEEPEST", "MOST_NODES", "Node", "Scalar", "plain_node", "repositioned"]

Scalar = None | bool | int | float | str

#: values of a recipe, aliases and interpolations written out
MOST_NODES = 50_000
#: levels of nesting, likewise
DEEPEST = 50
LARGEST_INTEGER = 10**40


@dataclass(frozen=True)
class Node:
    """A value and its place.

    Attributes:
        value: a scalar, a mapping from names to nodes, or a tuple of nodes.
        position: where the value is written.
        key: where its name is written in the mapping above; None in a list and at the root.
        origin: where the value came from, in words; empty where it is written here.
        size: number of nodes from here down, shared ones counted each time.
        depth: number of levels from here down.
    """

    value: Scalar | Mapping[str, Node] | tuple[Node, ...]
    position: Position
    key: Position | None = None
    origin: str = ""
    size: int = field(init=False, compare=False)
    depth: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", 1 + sum(child.size for _, child in self.children()))
        object.__setattr__(self, "depth", 1 + max((child.depth for _, child in self.children()), default=0))

    @property
    def excess(self) -> str:
        """The bound that this tree exceeds, in words; empty where it is within bounds."""
        if self.size > MOST_NODES:
            return f"more than {MOST_NODES} values once aliases and interpolations are written out"
        return f"nested more than {DEEPEST} levels deep" if self.depth > DEEPEST else ""

    @property
    def mapping(self) -> Mapping[str, Node] | None:
        """The named children; None for anything but a mapping."""
        return self.value if isinstance(self.value, Mapping) else None

    def children(self) -> Iterator[tuple[str | int, Node]]:
        """The children with their names or indices; none below a scalar."""
        if isinstance(self.value, Mapping):
            yield from self.value.items()
        elif isinstance(self.value, tuple):
            yield from enumerate(self.value)

    def child(self, part: str | int) -> Node | None:
        """The child of that name or index, or None."""
        if isinstance(self.value, Mapping):
            return self.value.get(str(part))
        if isinstance(self.value, tuple) and str(part).isdecimal() and int(part) < len(self.value):
            return self.value[int(part)]
        return None

    def at(self, path: Path) -> Node | None:
        """The node at ``path`` below this one, or None."""
        node: Node | None = self
        for part in path:
            node = node.child(part) if node is not None else None
        return node

    def plain(self) -> Any:
        """The bare value: a scalar, a dict or a list."""
        if isinstance(self.value, Mapping):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain() for child in self.value]
        return self.value

    def along(self, path: Path) -> Iterator[Node]:
        """The nodes from this one down towards ``path``, as far as they exist."""
        node: Node | None = self
        for part in (*path, None):
            if node is None:
                return
            yield node
            node = node.child(part) if part is not None else None

    def place(self, path: Path, *, of_key: bool = False) -> tuple[Position, str]:
        """The position of ``path``, and where its value came from ("" where it is written there).

        A path without a node of its own falls back to its nearest ancestor. Below an interpolation it is the place of
        the interpolation, and the origin names the place where the value was written.
        """
        trail = list(self.along(path))
        for node in trail:
            if node.origin:
                return node.position, node.origin
        last = trail[-1]
        missing = len(trail) <= len(path)
        return ((last.key if of_key or missing else None) or last.position), ""


def plain_node(value: object, position: Position, path: Path = ()) -> Node:
    """A tree with every node at ``position``.

    Raises:
        RecipeError: a value that a recipe cannot contain, or nesting without end.
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
    """The same values, all at one position."""
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
