"""YAML text to PyYAML's nodes, within bounds, and broken syntax to messages that name the remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from paredown.framework.errors import Mistake
from paredown.framework.recipe.tree.nodes import DEEPEST, MOST_NODES
from paredown.framework.recipe.tree.positions import Position

__all__ = ["Composed", "composed", "yaml_mistake"]

#: the start of PyYAML's message, and the message that replaces it
_IN_OTHER_WORDS = (
    (
        r"mapping values are not allowed",
        "a ':' where a key is not possible; quote a text that holds ': ', or indent the line",
    ),
    (r"could not find expected ':'", "a key without a ':' after it"),
    (r"found character '\\t'", "a tab; YAML is indented with spaces"),
    (r"found character '(.)' that cannot", r"{0!r} cannot start a value; put quotes around it"),
    (r"found undefined alias '(.*)'", "the alias *{0} has no anchor &{0} above it"),
    (r"found duplicate anchor '(.*)'", "the anchor &{0} is set twice"),
    (r"expected <block end>", "the indentation does not fit the lines above"),
    (r"found unexpected end of stream", "a quote is opened and not closed"),
    (r"but found another document", "a second document; a recipe is one document"),
    (r"expected ',' or '([\]}])'", "a ',' or the closing '{0}' is missing"),
)


@dataclass(frozen=True)
class Composed:
    """A document as PyYAML's nodes; an alias is the very node that it refers to.

    Attributes:
        root: None of an empty document.
        tags: the explicit tags of nodes.
        anchors: the names of the nodes that aliases refer to.
    """

    root: yaml.Node | None
    tags: Mapping[yaml.Node, str]
    anchors: Mapping[yaml.Node, str]


def composed(text: str) -> Composed:
    """The nodes of a document; no object is constructed.

    Raises:
        yaml.YAMLError: broken syntax, or a document beyond the bounds on depth and number of values.
    """
    loader = _Loader(text)
    try:
        return Composed(loader.get_single_node(), loader.tags, loader.aliased)
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner, parser and composer without its rules for scalars, with bounds on what it reads."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own shape; scalars are read by `core_scalar`

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.nodes = 0
        self.depth = 0
        #: explicit tags
        self.tags: dict[yaml.Node, str] = {}
        #: anchors that have an alias
        self.aliased: dict[yaml.Node, str] = {}

    def scan_to_next_token(self) -> None:
        """Skip what PyYAML skips, and tabs that separate: behind something on their line, or with nothing behind."""
        super().scan_to_next_token()
        while self.peek() == "\t" and self._separates():
            self.forward(self._blanks())
            super().scan_to_next_token()

    def scan_plain_spaces(self, indent: int, start_mark: yaml.Mark) -> Any:
        """The blanks inside of a plain scalar, tabs among them."""
        blanks = self.prefix(self._blanks())
        if "\t" not in blanks:
            return super().scan_plain_spaces(indent, start_mark)
        self.forward(len(blanks))
        return super().scan_plain_spaces(indent, start_mark) or [blanks]

    def _blanks(self) -> int:
        """The number of blanks and tabs that come next."""
        length = 0
        while self.peek(length) in " \t":
            length += 1
        return length

    def _separates(self) -> bool:
        """Whether the tab that comes next is no indentation of a value."""
        before = self.buffer[self.pointer - self.column : self.pointer]
        return bool(self.flow_level or before.strip(" \t") or self.peek(self._blanks()) in "#\r\n\0")

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        self.nodes += 1
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} levels deep", problem_mark=mark)
        if self.nodes > 2 * MOST_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_NODES} values", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and isinstance(event, yaml.AliasEvent):
            self.aliased[node] = str(event.anchor)
        if node is not None and getattr(event, "tag", None) is not None:
            self.tags[node] = event.tag
        return node


def yaml_mistake(error: yaml.YAMLError, file: str, text: str, lines: list[str]) -> Mistake:
    """The mistake of a YAML error, at its position in the text."""
    if isinstance(error, yaml.reader.ReaderError):
        return _character_mistake(error, file, text, lines)
    mark = _mark(error)
    if mark is None:
        return Position(file).mistake(f"not valid YAML: {error}")
    position = Position.in_text(file, lines, mark.line, mark.column)
    words = _reworded(str(getattr(error, "problem", None) or error))
    return position.mistake(words + (_hint(position) if "is missing" in words else ""))


def _mark(error: yaml.YAMLError) -> yaml.Mark | None:
    """Where the mistake is: PyYAML stops behind a quote that is not closed, and behind a key without its colon."""
    at, began = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    is_late = str(getattr(error, "problem", "")).startswith(("found unexpected end", "could not find expected ':'"))
    return (began if is_late else None) or at or began


def _reworded(problem: str) -> str:
    for pattern, words in _IN_OTHER_WORDS:
        if match := re.match(pattern, problem):
            return "not valid YAML: " + words.format(*match.groups())
    return problem if problem.startswith(("nested", "more than")) else f"not valid YAML: {problem}"


def _hint(position: Position) -> str:
    if position.source_line and "${" in position.source_line:
        return ' (inside [ ] and { }, put quotes around an interpolation: "${...}")'
    return ""


def _character_mistake(error: yaml.reader.ReaderError, file: str, text: str, lines: list[str]) -> Mistake:
    before = text[: error.position]
    line = len(before.splitlines()) - (1 if before and before[-1] not in "\r\n" else 0)
    column = len(before) - (max(before.rfind("\n"), before.rfind("\r")) + 1)
    code = error.character if isinstance(error.character, int) else ord(str(error.character)[0])
    return Position.in_text(file, lines, line, column).mistake(f"the character U+{code:04X} is not allowed in YAML")
