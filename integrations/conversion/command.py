"""`paredown convert`: recipes of other tools become paredown recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paredown.framework.cli.console import Output, Quiet, print_problem, write

__all__ = ["convert_recipe", "register"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown convert old.yaml --output new.yaml

paredown convert card.md --output new.yaml --strict
"""

Old = Annotated[Path, typer.Argument(metavar="OLD", help="A recipe of SparseML or llm-compressor: YAML, or a card.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit code 1 where anything was left out.")]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("convert", epilog=EXAMPLES)(convert_recipe)


def convert_recipe(old: Old, output: Output = None, strict: Strict = False, quiet: Quiet = False) -> None:
    """Turn a recipe of SparseML or llm-compressor into one of paredown; what has no counterpart is listed."""
    from paredown.integrations.conversion.conversion import convert
    from paredown.integrations.conversion.new_file import check, text_of

    source = _text(old)
    converted = convert(source, str(old))
    text = text_of(converted, old.name)
    check(text, str(old))
    for note in converted.notes.sorted():
        print_problem(f"{old}:{note.line}: {note.subject}: {note.kind}: {note.reason}")
    if output is None:
        typer.echo(text, nl=False)
    else:
        write(text, output)
    if output is not None and not quiet:
        typer.echo(f"{output}: {', '.join(converted.recipe['modifiers'])}")
    if strict and not converted.notes.complete:
        raise typer.Exit(1)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint="OLD") from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{path} is not text in UTF-8", param_hint="OLD") from error
