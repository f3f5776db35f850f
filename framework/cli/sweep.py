"""`paredown sweep`: the jobs of sweeps in one table, their Pareto fronts, and the best one as a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paredown.framework.cli.arguments import wrong_use
from paredown.framework.cli.bars import sweep_bar
from paredown.framework.cli.console import AsJson, Output, console, print_problem, print_text, table, write

if TYPE_CHECKING:
    from rich.table import Table

    from paredown.framework.experiments.sweep.collecting import Sweep
    from paredown.framework.experiments.sweep.progress import Progress, SweepEnded, SweepStarted

__all__ = ["register", "show_sweep", "sweep"]

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

    with wrong_use():
        found = collect(folders)
    if not found.rows:
        raise typer.BadParameter("no jobs below it", param_hint=str(folders[0]))
    if pick is not None:
        _pick(found, pick, by, output)
    elif output is not None:
        write(_file_text(found, output, ", ".join(str(folder) for folder in folders)), output)
    else:
        _print_table(found, as_json)


def show_sweep(progress: Iterator[Progress], quiet: bool, as_json: bool) -> None:
    """Run a sweep by iterating its progress, and show it: a line at the start, a bar, the table at the end.

    Raises:
        typer.Exit: jobs failed, or were not run.
    """
    from paredown.framework.experiments.sweep.progress import LauncherFailed, SweepEnded, SweepStarted

    with ExitStack() as running:
        for event in progress:
            if isinstance(event, SweepStarted):
                running.enter_context(_running(event, quiet or as_json))
            elif isinstance(event, LauncherFailed):
                print_problem(f"the launcher gave up: {event.reason}")
            elif isinstance(event, SweepEnded):
                running.close()
                _print_end(event, quiet or as_json, as_json)


@contextmanager
def _running(sweep: SweepStarted, hidden: bool) -> Iterator[None]:
    """Print the first line of a sweep, show its bar while the jobs run, and name the command that resumes it."""
    if not hidden:
        finished = f", {sweep.finished} of them finished" if sweep.finished else ""
        typer.echo(f"{sweep.folder}: {sweep.jobs} jobs{finished}")
    try:
        with sweep_bar([sweep.folder / str(number) for number in range(sweep.jobs)], hidden):
            yield
    except KeyboardInterrupt:
        print_problem(f"stopped; go on with: paredown run --resume {sweep.folder}")
        raise


def _print_end(ended: SweepEnded, hidden: bool, as_json: bool) -> None:
    """Print the table of a sweep and its problems, which are exit code 1."""
    if as_json or not hidden:
        _print_table(ended.sweep, as_json)
    if not hidden:
        typer.echo(f"{ended.folder / 'sweep.html'} written")
    failed, left = ended.sweep.in_state("failed"), ended.sweep.in_state("unfinished", "waiting")
    if failed:
        print_problem(f"{len(failed)} of {len(ended.sweep.rows)} jobs failed; the whole error is in error.txt of each")
    if left:
        print_problem(f"{len(left)} jobs are not through; paredown run --resume {ended.folder}")
    if failed or left:
        raise typer.Exit(1)


def _print_table(found: Sweep, as_json: bool = False) -> None:
    """Print the table and the number of jobs in each state."""
    from paredown.framework.experiments.sweep.table import state_of, summary, to_json

    if as_json:
        typer.echo(to_json(found))
        return
    out = console()
    if not out.is_terminal:
        out.width = WIDTH
    out.print(_table(found))
    typer.echo(f"{summary(found)}; {_about_fronts(found)}")
    for row in found.in_state("failed", "running", "unfinished"):
        typer.echo(f"{row.folder}: {state_of(row)}")


def _about_fronts(found: Sweep) -> str:
    """What the letters in the table mean."""
    metric = found.deciding
    if not metric.sign:
        return f"front: unknown, until the task declares whether more of it is better: metrics={{{metric.name!r}: ...}}"
    least = " (less is better)" if metric.sign < 0 else ""
    return f"front: no other job is as good in {metric.name}{least} with fewer Bytes, fewer MACs, less Latency"


def _table(found: Sweep) -> Table:
    from rich.text import Text

    from paredown.framework.experiments.sweep.table import short_cells, short_head

    made = table(())
    for name in short_head(found):
        is_wide = name == "overrides"
        made.add_column(name, justify="left" if name in WORDS else "right", no_wrap=not is_wide, overflow="fold")
    for line in short_cells(found):
        made.add_row(*(Text(cell) for cell in line), style="bold" if line[-2] else None)
    return made


def _pick(found: Sweep, text: str, by: str, output: Path | None) -> None:
    from paredown.framework.experiments.sweep.condition import Condition
    from paredown.framework.experiments.sweep.picking import pick, winning_recipe

    with wrong_use():
        row = pick(found, Condition.parse(text, found.quantities), by)
    print_text(winning_recipe(row), output)
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
