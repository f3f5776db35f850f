"""Reads the YAML of an old recipe into plain values with line numbers; no tag constructs an object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from paredown.framework.errors import RecipeError
from paredown.framework.recipe.reading.sources import front_matter
from paredown.framework.recipe.tree.nodes import DEEPEST
from paredown.framework.recipe.tree.positions import Position
from paredown.framework.recipe.tree.scalars import core_scalar
from paredown.framework.recipe.tree.yaml_nodes import LONGEST_TEXT
from paredown.framework.recipe.tree.yaml_syntax import composed, yaml_mistake
from paredown.integrations.conversion.anchors import shared_numbers

__all__ = ["Value", "read", "refuse"]

MOST_VALUES = 20_000
STANDARD = "tag:yaml.org,2002:"
PLAIN_TAGS = {STANDARD + kind for kind in ("int", "float", "str", "bool", "null", "seq", "map")}
#: words that PyYAML, with which these recipes were read, takes for booleans
WORDS = {"yes": True, "on": True, "no": False, "off": False}


@dataclass(frozen=True)
class Value:
    """A value of an old recipe: a scalar, a tuple of values, or a mapping of them; its line; its local tag."""

    value: Any
    line: int
    tag: str | None = None

    @property
    def items(self) -> Mapping[str, Value]:
        return self.value if isinstance(self.value, dict) else {}

    @property
    def elements(self) -> tuple[Value, ...]:
        """The elements of a list; anything else is a list of itself."""
        return self.value if isinstance(self.value, tuple) else (self,)

    def plain(self) -> Any:
        """The value without its lines."""
        if isinstance(self.value, dict):
            return {name: value.plain() for name, value in self.value.items()}
        return [value.plain() for value in self.value] if isinstance(self.value, tuple) else self.value


def refuse(file: str, line: int, problem: str) -> RecipeError:
    """The error of a place in an old recipe."""
    return RecipeError([Position(file, line, 1).mistake(problem)])


def read(text: str, file: str) -> Value:
    """Read YAML, or the front matter of a Markdown card.

    Raises:
        RecipeError: broken syntax, an empty document, a tag that asks for an object, a bound; with the line.
    """
    if len(text) > LONGEST_TEXT:
        raise refuse(file, 1, f"{len(text)} characters; a recipe has at most {LONGEST_TEXT}")
    if file.lower().endswith((".md", ".markdown")):
        text = front_matter(text, file)
    try:
        document = composed(text)
    except yaml.YAMLError as error:
        raise RecipeError([yaml_mistake(error, file, text, text.splitlines())]) from None
    if document.root is None:
        raise refuse(file, 1, "the document is empty")
    return _Reader(file, shared_numbers(document)).document(document.root)


class _Reader:
    """Nodes to values; a number with aliases is a variable that they name, every other alias is written out."""

    def __init__(self, file: str, shared: Mapping[yaml.Node, str]) -> None:
        self.file = file
        self.shared = shared
        self.count = 0

    def document(self, root: yaml.Node) -> Value:
        """The whole document; numbers that are shared, and no variables of it yet, come first."""
        value = self.value(root, 0)
        if not isinstance(value.value, dict):
            return value
        own = {name: node for node, name in self.shared.items() if name not in value.value}
        defined = {name: Value(_scalar(str(node.value)), node.start_mark.line + 1) for name, node in own.items()}
        return Value({**defined, **value.value}, value.line, value.tag)

    def value(self, node: yaml.Node, depth: int) -> Value:
        line = node.start_mark.line + 1
        self.count += 1
        if self.count > MOST_VALUES or depth > DEEPEST:
            raise refuse(self.file, line, f"more than {MOST_VALUES} values, or nested more than {DEEPEST} levels deep")
        if node in self.shared:
            return Value(f"eval({self.shared[node]})", line)
        return Value(self._content(node, depth), line, self._tag(node, line))

    def _tag(self, node: yaml.Node, line: int) -> str | None:
        tag: str = node.tag
        if tag in PLAIN_TAGS:
            return None
        if tag.startswith("!") and tag[1:].replace(".", "_").isidentifier():
            return tag[1:].rpartition(".")[2]
        shown = tag.replace(STANDARD, "!!")
        raise refuse(self.file, line, f"the tag {shown}: only modifiers have tags, and nothing is constructed from one")

    def _content(self, node: yaml.Node, depth: int) -> Any:
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, depth))
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.value(child, depth + 1) for child in node.value)
        return str(node.value) if getattr(node, "style", None) is not None else _scalar(str(node.value))

    def _pairs(self, node: yaml.MappingNode, depth: int) -> Iterator[tuple[str, Value]]:
        seen: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or (key.style is None and key.value in ("<<", "")):
                raise refuse(self.file, line, "a key is a plain word; merge keys (<<) have to be written out")
            name = str(key.value)
            if name in seen:
                raise refuse(self.file, line, f"the key {name!r} is given twice; the first is in line {seen[name]}")
            seen[name] = line
            defines = depth == 0 and self.shared.get(child) == name
            named = Value(_scalar(str(child.value)), line) if defines else self.value(child, depth + 1)
            yield name, _at(named, line)


def _at(value: Value, line: int) -> Value:
    """A value at the line of its key, which is where a reader looks for it."""
    return Value(value.value, line, value.tag)


def _scalar(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return core_scalar(text)
    except ValueError:
        return text
