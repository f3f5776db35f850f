"""Resolves `${...}` in a tree of nodes, in the order of dependence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from paredown.framework.errors import Mistake, RecipeError, nearest
from paredown.framework.recipe.reading.omegaconf import App
from paredown.framework.recipe.resolving.expression import evaluate
from paredown.framework.recipe.resolving.grammar import Call, Part, Reference, is_interpolated, parsed
from paredown.framework.recipe.tree.nodes import Node
from paredown.framework.recipe.tree.positions import Path, Position, dotted

__all__ = ["Resolved", "resolved"]

LONGEST_TEXT = 20_000
#: levels of nesting and of references, together
DEEPEST_CHAIN = 80
#: mistakes for which the nearest name is looked for
MOST_HINTS = 100


@dataclass(frozen=True)
class Resolved:
    """A tree without interpolations.

    Attributes:
        root: the tree; values that did not resolve are left out.
        broken: where they were.
        mistakes: why.
        outside: where values came from the app around the recipe.
    """

    root: Node
    broken: frozenset[Path]
    mistakes: tuple[Mistake, ...]
    outside: frozenset[Path]


def resolved(root: Node, app: App | None = None) -> Resolved:
    """Resolve every interpolation below ``root``.

    Args:
        root: a mapping.
        app: the config around the recipe, that values under `variables` may refer to.
    """
    resolver = _Resolver(root, app)
    whole = resolver.resolve(())
    outside = frozenset(resolver.outside)
    return Resolved(whole or replace(root, value={}), frozenset(resolver.broken), tuple(resolver.mistakes), outside)


class _Broken(Exception):  # noqa: N818  the mistake is noted already; this unwinds to the value that depends on it
    """A value does not resolve."""


@dataclass
class _Resolver:
    root: Node
    app: App | None
    mistakes: list[Mistake] = field(default_factory=list)
    #: resolved nodes; None where one does not resolve
    done: dict[Path, Node | None] = field(default_factory=dict)
    #: the paths that are being resolved, outermost first
    open: list[Path] = field(default_factory=list)
    broken: set[Path] = field(default_factory=set)
    outside: set[Path] = field(default_factory=set)

    def resolve(self, path: Path) -> Node | None:
        """The resolved node at a path that exists in the tree as written; None where it does not resolve."""
        if path not in self.done:
            self.open.append(path)
            try:
                node = self.root.at(path)
                self.done[path] = self._resolved(node, path) if node is not None else None
            except _Broken:
                self.done[path] = None
                self.broken.add(path)
            self.open.pop()
        return self.done[path]

    def _resolved(self, node: Node, path: Path) -> Node:
        if is_interpolated(node.value):
            return self._interpolated(node, path)
        children = [(part, self.resolve((*path, part))) for part, _ in node.children()]
        found = {str(part): child for part, child in children if child is not None}
        if node.mapping is not None:
            node = replace(node, value=found)
        elif isinstance(node.value, tuple):
            node = replace(node, value=tuple(found.values()))
        if isinstance(node.value, tuple) and len(found) < len(children):
            raise _Broken
        if node.excess:
            self._refuse(path, node.excess)
        return node

    def _interpolated(self, node: Node, path: Path) -> Node:
        try:
            text = parsed(str(node.value))
        except ValueError as error:
            self._refuse(path, str(error))
        result = self._value(text.parts, path)
        return replace(node, value=result.value, origin=result.origin)

    def _value(self, parts: Sequence[Part], path: Path) -> Node:
        """The value of a text: a single interpolation keeps its type, several pieces make a text."""
        if len(parts) == 1 and not isinstance(parts[0], str):
            return self._part(parts[0], path)
        nodes = [part if isinstance(part, str) else self._single(part, path) for part in parts]
        text = "".join(node if isinstance(node, str) else str(node.value) for node in nodes)
        if len(text) > LONGEST_TEXT:
            self._refuse(path, f"gives a text of {len(text)} characters; at most {LONGEST_TEXT}")
        return Node(text, self._position(path), origin=_origins(nodes))

    def _part(self, part: Reference | Call, path: Path) -> Node:
        return self._reference(part, path) if isinstance(part, Reference) else self._call(part, path)

    def _single(self, part: Reference | Call, path: Path) -> Node:
        node = self._part(part, path)
        if node.mapping is not None or isinstance(node.value, tuple):
            kind = "mapping" if node.mapping is not None else "list"
            self._refuse(path, f"{part.source} is a {kind}; only a single value fits here")
        return node

    def _call(self, call: Call, path: Path) -> Node:
        if call.resolver != "expr":
            self._refuse(path, f"the resolver {call.resolver!r} works in no recipe, only expr does; a recipe is data")
        if len(call.arguments) != 1:
            self._refuse(path, 'expr takes one expression in quotes: ${expr:"a + b"}')
        parts = call.arguments[0].parts
        nodes = [part if isinstance(part, str) else self._single(part, path) for part in parts]
        origin = _origins(nodes)
        try:
            result = evaluate([node if isinstance(node, str) else (node.value,) for node in nodes])
        except ValueError as error:
            self._refuse(path, f"{call.source[:200]}: {error}" + (f" (with {origin})" if origin else ""))
        return Node(result, self._position(path), origin=origin or "the expression here")

    def _reference(self, reference: Reference, path: Path) -> Node:
        target = self._target(reference, path)
        node = self._lookup(target)
        if node is None and self.app is not None:
            self.outside.add(path)
            own = self.app.inside(target)
            target, node = (target, self._from_app(target, path)) if own is None else (own, self._lookup(own))
        if node is None:
            self._refuse(path, self._unknown(reference, target))
        return replace(node, origin=node.origin or f"{dotted(target)} ({node.position})")

    def _target(self, reference: Reference, path: Path) -> Path:
        keys = [key if isinstance(key, str) else str(self._single(key, path).value) for key in reference.keys]
        if reference.levels > len(path):
            self._refuse(path, f"{reference.source} leads above the recipe")
        return (*(path[: len(path) - reference.levels] if reference.levels else ()), *keys)

    def _lookup(self, target: Path) -> Node | None:
        """The resolved node at ``target``; None where the recipe has none."""
        node: Node | None = self.root
        for length, part in enumerate(target, 1):
            node = node.child(part) if node is not None else None
            if node is not None and is_interpolated(node.value):
                return self._depended(self._indexed(target[:length])).at(target[length:])
        return None if node is None else self._depended(self._indexed(target))

    def _indexed(self, target: Path) -> Path:
        """With integers where a part is the index into a list, as in the keys of ``done``."""
        above = self.root.along(target)
        return tuple(
            int(part) if isinstance(node.value, tuple) else part for part, node in zip(target, above, strict=False)
        )

    def _depended(self, target: Path) -> Node:
        """The node that the value being resolved depends on."""
        path = self.open[-1]
        if target in self.open:
            cycle = [*self.open[self.open.index(target) :], target]
            self._refuse(path, f"refers to itself: {' -> '.join(dotted(step) or 'the recipe' for step in cycle)}")
        if len(self.open) > DEEPEST_CHAIN:
            self._refuse(path, f"a chain of more than {DEEPEST_CHAIN} references")
        node = self.resolve(target)
        if node is None or self._is_incomplete(node, target):
            raise _Broken
        return node

    def _is_incomplete(self, node: Node, target: Path) -> bool:
        """Whether something below did not resolve."""
        if node.mapping is None:
            return False
        return any(path[: len(target)] == target for path in self.broken)

    def _from_app(self, target: Path, path: Path) -> Node | None:
        """The app's value, for values under `variables`."""
        if self.app is None or path[:1] != ("variables",):
            return None
        try:
            return self.app.value(target, self._position(path))
        except RecipeError as error:
            self._refuse(path, error.errors[0].message)

    def _unknown(self, reference: Reference, target: Path) -> str:
        known = len(list(self.root.along(target))) - 1
        near = _near(self.root, target, known) if len(self.mistakes) < MOST_HINTS else ""
        if not near and target[:1] == ("modifiers",) and known >= 2:
            near = "; a field that is left out cannot be referred to, write it down"
        elif not near and self.app is not None:
            near = "; only values under variables may refer to the app around it"
        return f"{reference.source}: the recipe has no {dotted(target)}{near}"

    def _position(self, path: Path) -> Position:
        return self.root.place(path)[0]

    def _refuse(self, path: Path, message: str) -> NoReturn:
        self.mistakes.append(self._position(path).mistake(message, path))
        raise _Broken


def _origins(nodes: Sequence[Node | str]) -> str:
    found = [node.origin for node in nodes if isinstance(node, Node) and node.origin]
    return ", ".join(dict.fromkeys(found))[:400]


def _near(root: Node, target: Path, known: int) -> str:
    """The nearest path to a misspelt reference: a sibling of the missing key, or a variable of that name."""
    for parent, word in ((target[:known], target[known]), (("variables",), target[-1])):
        node = root.at(parent)
        names = {str(part): dotted((*parent, part)) for part, _ in node.children()} if node is not None else {}
        if (near := nearest(str(word), names)) is not None:
            return f"; did you mean {names[near]!r}?"
    return ""
