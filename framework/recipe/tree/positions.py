"""Positions of values: a line and column of a file, or a named source such as "override 2"."""

from __future__ import annotations

from dataclasses import dataclass

from paredown.framework.errors import LONGEST_SHOWN, Mistake

__all__ = ["Path", "Position", "dotted", "from_where", "shown"]

#: keys and list indices from the root of a recipe to a value
Path = tuple[str | int, ...]

LONGEST_SOURCE_LINE = 240


@dataclass(frozen=True)
class Position:
    """A place in a source; ``line`` and ``column`` count from 1 and are None for a source that is not text."""

    file: str | None = None
    line: int | None = None
    column: int | None = None
    source_line: str | None = None

    def mistake(self, message: str, path: Path | str = ()) -> Mistake:
        """A mistake at this place."""
        name = path if isinstance(path, str) else dotted(path)
        return Mistake(message, name, self.file, self.line, self.column, self.source_line)

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    @classmethod
    def in_text(cls, file: str, lines: list[str], line: int, column: int) -> Position:
        """The place at ``line`` and ``column`` (from 0) of a text that was split into ``lines``."""
        source = lines[line].replace("\t", " ").rstrip() if line < len(lines) else None
        if source is not None and (len(source) > LONGEST_SOURCE_LINE or not source.isprintable()):
            source = None
        return cls(file, line + 1, column + 1, source)


def dotted(path: Path) -> str:
    """A path as a recipe writes it in an interpolation.

    >>> dotted(("modifiers", "prune", "targets", 0))
    'modifiers.prune.targets[0]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) or "." in part else f".{part}"
    return text.removeprefix(".")


def shown(value: object) -> str:
    """A found value, short enough for a message.

    >>> shown("x" * 1000)[-3:]
    '...'
    """
    text = repr(value[: 2 * LONGEST_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def from_where(origin: str) -> str:
    """The end of a message about a value that came by interpolation; empty where ``origin`` is."""
    return f"; the value comes from {origin}" if origin else ""
