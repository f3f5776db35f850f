"""A table as plain text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["text_table"]


def text_table(title: str, rows: Sequence[tuple[str, str, str, str]], notes: Sequence[str]) -> str:
    """Dense beside compressed in aligned columns, the notes below."""
    body = [("", "dense", "compressed", "ratio"), *rows]
    widths = [max(len(row[column]) for row in body) for column in range(4)]
    lines = [f"{row[0]:<{widths[0]}}  " + "  ".join(f"{row[c]:>{widths[c]}}" for c in (1, 2, 3)) for row in body]
    return "\n".join([title, *lines, *(f"note: {note}" for note in notes)])
