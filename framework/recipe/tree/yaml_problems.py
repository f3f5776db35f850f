"""What PyYAML says about broken syntax, in words that tell what to do."""

from __future__ import annotations

import re

import yaml

from paredown.framework.errors import Mistake
from paredown.framework.recipe.tree.positions import Position

__all__ = ["yaml_mistake"]

#: the start of PyYAML's problem, and what to say instead
_IN_OTHER_WORDS = (
    (
        r"mapping values are not allowed",
        "a ':' where no key can stand; quote a text that holds ': ', or indent the line",
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


def yaml_mistake(error: yaml.YAMLError, file: str, text: str, lines: list[str]) -> Mistake:
    """The mistake that a YAML error stands for, at its place."""
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
    return Position.in_text(file, lines, line, column).mistake(f"the character U+{code:04X} cannot stand in YAML")
