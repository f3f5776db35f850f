"""`paredown sweep`: the jobs of sweeps in one table, their Pareto fronts, and the best one as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paredown.framework.cli.console import AsJson, Output, console, print_problem, write

if TYPE_CHECKING:
    from paredown.framework.experiments.sweep.collecting import Sweep

__all__ = ["print_table", "register", "sweep"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown sweep runs/sweep-2027-01-31-12-00-00

paredown sweep runs/first runs/second --output sweep.html

paredown sweep runs/first --pick "accuracy >= dense - 0.01" --by bytes --output winner.yaml
"""

Folders = Annotated[
    list[Path], typer.Argument(metavar="FOLDER...", help="Of `paredown run -m`, or of a Hydra app that writes reports.")
]
Pick = Annotated[
    str | None,
    typer.Option(metavar="CONDITION", help="Write the best job that holds it, such as 'bytes <= 0.2 * dense'."),
]
By = Annotated[str, typer.Option("--by", metavar="QUANTITY", help="What the best one is best in.")]


#: columns of words
WORDS = ("job", "overrides", "front", "state")
#: of a table that is not for a terminal
WIDTH = 160


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(sweep)


def sweep(
    folders: Folders, pick: Pick = None, by: By = "bytes", as_json: AsJson = False, output: Output = None
) -> None:
    """Collect the jobs of sweeps into one table, also while they run; FILE is .html, .csv or .json.

    With --pick: write the recipe of the best job, its overrides folded in, its results filled.
    """
    from paredown.framework.experiments.sweep.collecting import collect

    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise typer.BadParameter(f"{missing[0]}: no such folder", param_hint="FOLDER")
    found = collect(folders)
    if not found.rows:
        raise typer.BadParameter("no jobs below it", param_hint=str(folders[0]))
    if pick is not None:
        _pick(found, pick, by, output)
    elif output is not None:
        write(_file_text(found, output, ", ".join(str(folder) for folder in folders)), output)
    else:
        print_table(found, as_json)


def print_table(found: Sweep, as_json: bool = False) -> None:
    """Print the table and how many jobs are in which state."""
    from paredown.framework.experiments.sweep.table import SHORT_HEAD, short_cells, summary, to_json, told

    if as_json:
        typer.echo(to_json(found))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in SHORT_HEAD:
        is_wide = name == "overrides"
        table.add_column(name, justify="left" if name in WORDS else "right", no_wrap=not is_wide, overflow="fold")
    for line in short_cells(found):
        table.add_row(*(Text(cell) for cell in line), style="bold" if line[-2] else None)
    out = console()
    if not out.is_terminal:
        out.width = WIDTH
    out.print(table)
    typer.echo(f"{summary(found)}; front: no other job is as accurate with fewer Bytes, fewer MACs, less Latency")
    for row in found.in_state("failed", "running", "unfinished"):
        typer.echo(f"{row.folder}: {told(row)}")


def _pick(found: Sweep, text: str, by: str, output: Path | None) -> None:
    from paredown.framework.errors import did_you_mean
    from paredown.framework.experiments.sweep.condition import Condition
    from paredown.framework.experiments.sweep.picking import pick, winning_recipe
    from paredown.framework.experiments.sweep.row import QUANTITIES

    if by not in QUANTITIES:
        near = did_you_mean(by, QUANTITIES)
        raise typer.BadParameter(f"{by!r}{near}; one of {', '.join(QUANTITIES)}", param_hint="--by")
    try:
        condition = Condition.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--pick") from None
    row = pick(found, condition, by)
    recipe = winning_recipe(row)
    if output is None:
        typer.echo(recipe, nl=False)
    else:
        write(recipe, output)
    print_problem(f"picked {row.folder} ({row.label})")


def _file_text(found: Sweep, output: Path, title: str) -> str:
    from paredown.framework.experiments.sweep.page import html_page
    from paredown.framework.experiments.sweep.table import to_csv, to_json

    if output.suffix == ".html":
        return html_page(found, f"Sweep {title}")
    if output.suffix == ".csv":
        return to_csv(found)
    if output.suffix == ".json":
        return to_json(found) + "\n"
    raise typer.BadParameter(f"{output}: a table is written as .html, .csv or .json", param_hint="--output")
