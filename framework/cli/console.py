"""What the commands print with: results to standard output or a file, problems to standard error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

__all__ = ["AsJson", "Output", "Quiet", "print_json", "print_problem", "write"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but problems.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of the terminal.")
]


def print_problem(message: str) -> None:
    """Print to standard error, as it is: no wrapping, no markup."""
    typer.echo(message, err=True)


def print_json(values: Any, output: Path | None = None) -> None:
    """Print a value as JSON, or write it to a file."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    if output is None:
        typer.echo(text)
    else:
        write(text + "\n", output)


def write(text: str, output: Path) -> None:
    """Write a file, and its folder where that is missing.

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
