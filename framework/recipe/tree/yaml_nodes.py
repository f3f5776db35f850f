"""Reads YAML text into a tree of nodes with positions; tags, merge keys and duplicate keys are mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from paredown.framework.errors import Mistake, RecipeError
from paredown.framework.recipe.tree.nodes import Node
from paredown.framework.recipe.tree.positions import Position, shown
from paredown.framework.recipe.tree.scalars import core_scalar
from paredown.framework.recipe.tree.yaml_syntax import composed, yaml_mistake

__all__ = ["LONGEST_TEXT", "read_yaml"]

LONGEST_TEXT = 1_000_000


def read_yaml(text: str, file: str) -> tuple[Node, list[Mistake]]:
    """Read one document.

    Returns:
        the tree, and the mistakes that leave a tree to go on with (duplicate keys, tags, ...).

    Raises:
        RecipeError: no tree can be made: broken syntax, an empty document, a size, depth or alias bound.
    """
    if len(text) > LONGEST_TEXT:
        raise RecipeError([Position(file).mistake(f"{len(text)} characters; a recipe has at most {LONGEST_TEXT}")])
    lines = text.splitlines()
    try:
        document = composed(text)
    except yaml.YAMLError as error:
        raise RecipeError([yaml_mistake(error, file, text, lines)]) from None
    if document.root is None:
        raise RecipeError([Position(file, 1, 1).mistake("the document is empty; a recipe is a mapping of fields")])
    reader = _Reader(file, lines, document.tags)
    return reader.node(document.root), reader.mistakes


class _Reader:
    """Turns composed YAML nodes into ours; shared ones (aliases) once."""

    def __init__(self, file: str, lines: list[str], tags: Mapping[yaml.Node, str]) -> None:
        self.file = file
        self.tags = tags
        self.lines = lines
        self.mistakes: list[Mistake] = []
        self.done: dict[yaml.Node, Node] = {}
        self.open: set[yaml.Node] = set()

    def node(self, raw: yaml.Node) -> Node:
        if raw in self.done:
            return self.done[raw]
        position = self.position(raw.start_mark)
        if raw in self.open:
            raise RecipeError([position.mistake("an alias inside the value that it refers to")])
        self.open.add(raw)
        node = Node(self.value(raw, position), position)
        self.open.remove(raw)
        if node.excess:
            raise RecipeError([position.mistake(node.excess)])
        self.done[raw] = node
        return node

    def value(self, raw: yaml.Node, position: Position) -> Any:
        if (tag := self.tags.get(raw)) is not None:
            self.mistakes.append(position.mistake(f"the tag {shown(tag)}; a recipe has no tags, write the plain value"))
        if isinstance(raw, yaml.MappingNode):
            return self.mapping(raw)
        if isinstance(raw, yaml.SequenceNode):
            return tuple(self.node(child) for child in raw.value)
        try:
            return core_scalar(raw.value) if raw.style is None else raw.value  # type: ignore[attr-defined]
        except ValueError as error:
            self.mistakes.append(position.mistake(str(error)))
            return 0

    def mapping(self, raw: yaml.MappingNode) -> Mapping[str, Node]:
        found: dict[str, Node] = {}
        for raw_key, raw_child in raw.value:
            place = self.position(raw_key.start_mark)
            problem = "a key is a plain word" if raw_key in self.tags else _key_problem(raw_key)
            if problem is None and raw_key.value in found:
                first = found[raw_key.value].key
                problem = f"the key {shown(raw_key.value)} is given twice; the first is at {first}"
            if problem is not None:
                self.mistakes.append(place.mistake(problem))
                continue
            child = self.node(raw_child)
            found[raw_key.value] = Node(child.value, child.position, place)
        return found

    def position(self, mark: yaml.Mark) -> Position:
        return Position.in_text(self.file, self.lines, mark.line, mark.column)


def _key_problem(key: yaml.Node) -> str | None:
    if not isinstance(key, yaml.ScalarNode):
        return "a key is a plain word"
    if key.style is None and key.value == "<<":
        return "the merge key '<<' is no part of YAML 1.2; use extends, or write the fields out"
    return "a key is missing before ':'" if key.style is None and key.value == "" else None
