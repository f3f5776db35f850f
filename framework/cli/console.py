"""Printing and writing for all commands: results to standard output or a file, problems to standard error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["AsJson", "Output", "Quiet", "console", "print_json", "print_problem", "print_text", "table", "write"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but problems.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of the terminal.")
]


def print_problem(message: str) -> None:
    """Print to standard error, as it is: no wrapping, no markup."""
    typer.echo(message, err=True)


def print_text(text: str, output: Path | None = None) -> None:
    """Print a text that ends in a newline, or write it to a file."""
    if output is None:
        typer.echo(text, nl=False)
    else:
        write(text, output)


def print_json(values: Any, output: Path | None = None) -> None:
    """Print a value as JSON, or write it to a file."""
    print_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", output)


def write(text: str, output: Path) -> None:
    """Write a file that the user named, which may be a device such as /dev/stdout; missing folders are created.

    Raises:
        typer.BadParameter: the file cannot be written (wrong use, exit code 2).
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{output} cannot be written: {error.strerror}", param_hint="--output") from error


def console() -> Console:
    """Standard output with colours and tables."""
    return Console(highlight=False)


def table(head: Sequence[str], rows: Iterable[Sequence[object]] = ()) -> Table:
    """A table of plain text for the console: no markup in its cells, no lines around them."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    made = Table(*map(escape, head), box=None, header_style="bold", pad_edge=False)
    for row in rows:
        made.add_row(*(Text(str(value)) for value in row))
    return made
