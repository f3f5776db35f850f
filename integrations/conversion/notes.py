"""Notes of a conversion, each with its line: what was left out, and what has another meaning now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Note", "Notes"]

Kind = Literal["not converted", "translated with a difference"]


@dataclass(frozen=True)
class Note:
    """One entry of the list."""

    kind: Kind
    line: int
    subject: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: line {self.line}: {self.subject}: {self.reason}"


@dataclass
class Notes:
    """The list of notes."""

    notes: list[Note] = field(default_factory=list)

    def left_out(self, line: int, subject: str, reason: str) -> None:
        self._add(Note("not converted", line, subject, reason))

    def differs(self, line: int, subject: str, reason: str) -> None:
        self._add(Note("translated with a difference", line, subject, reason))

    def _add(self, note: Note) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def sorted(self) -> list[Note]:
        return sorted(self.notes, key=lambda note: note.line)

    @property
    def complete(self) -> bool:
        """Whether nothing was left out."""
        return all(note.kind != "not converted" for note in self.notes)
