"""`paredown report`: print or convert the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paredown.framework.cli.console import AsJson, Output

__all__ = ["register", "report"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown report runs/latest

paredown report runs/latest/report.json --output report.html
"""

Source = Annotated[Path, typer.Argument(metavar="FOLDER|FILE", help="A run's folder, or its report.json.", exists=True)]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(report)


def report(source: Source, as_json: AsJson = False, output: Output = None) -> None:
    """Print a report that `paredown run` wrote, or write it as a page or as data."""
    from paredown.framework.report import Report

    path = source / "report.json" if source.is_dir() else source
    if not path.is_file():
        raise typer.BadParameter(f"{source} holds no report.json")
    loaded = Report.from_json(path.read_text(encoding="utf-8"))
    if output is not None:
        loaded.save(output)
    else:
        typer.echo(loaded.to_json() if as_json else str(loaded))
