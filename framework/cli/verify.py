"""`paredown verify`: run a recipe again, and compare its recorded numbers with the new ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.framework.cli.arguments import Source, require_source, wrong_use
from paredown.framework.cli.console import AsJson, Quiet, console, print_json, print_problem, table

if TYPE_CHECKING:
    from paredown.framework.recipe import Recipe
    from paredown.framework.report.proof import Compared

__all__ = ["register", "verify"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown verify mnist/prune-quantize-distill

paredown verify team-recipe.yaml --task team_project.job:task
"""
#: tasks that run without being named on the command line; a recipe is data, and starts no other code
OWN = "paredown."

TaskName = Annotated[
    str | None,
    typer.Option(
        "--task", "-t", metavar="MODULE:FUNCTION", help="The recorded task; named where it is not paredown's own."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(verify)


def verify(recipe: Source, task: TaskName = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Run a recipe again as its `results` record, and report whether its metrics and bytes hold.

    Exit code 0: every recorded number holds within its spread; 1: one does not, or nothing can be checked.
    """
    require_source(recipe)
    from paredown.framework.recipe import Recipe

    loaded = Recipe.load(recipe)
    runs = [(entry, _task_of(entry, task, recipe)) for entry in loaded.results if isinstance(entry.get("run"), Mapping)]
    if not runs:
        print_problem(f"{recipe}: it records no run; `paredown run RECIPE --task MODULE:FUNCTION --record` writes one")
        raise typer.Exit(1)
    from paredown.framework.report.proof import ALLOWED, check_recorded

    for entry, _ in runs:
        check_recorded(entry)
    found = [(str(entry.get("task", "")), _again(loaded, entry, name, quiet or as_json)) for entry, name in runs]
    holds = all(one.holds for _, numbers in found for one in numbers)
    if as_json:
        print_json(
            [{"task": name, "numbers": [vars(one) | {"holds": one.holds} for one in all_]} for name, all_ in found]
        )
    elif not quiet:
        _print(found)
        typer.echo(ALLOWED)
        typer.echo("every recorded number holds" if holds else "the recorded numbers do not hold")
    if not holds:
        raise typer.Exit(1)


def _task_of(entry: Mapping[str, Any], given: str | None, recipe: str) -> str:
    """The task to run: the one that the user named, or a recorded one of paredown's own."""
    recorded = str(entry["run"].get("task", ""))
    if given is None and not recorded.startswith(OWN):
        raise typer.BadParameter(
            f"{recipe} was run on {recorded!r}, which is code from elsewhere: name it if you trust it, "
            f"--task {recorded}",
            param_hint="--task",
        )
    return given or recorded


def _again(recipe: Recipe, entry: Mapping[str, Any], task: str, silent: bool) -> list[Compared]:
    from paredown.framework.cli.bars import Bars
    from paredown.framework.experiments.seeds import run_seeds
    from paredown.framework.experiments.task import load_task
    from paredown.framework.report.evidence import evidence
    from paredown.framework.report.proof import compared

    run = entry["run"]
    with wrong_use():
        job = load_task(task)
    seeds = [int(seed) for seed in run.get("seeds", job.seeds)]
    with Bars(hidden=silent) as bars, TemporaryDirectory() as folder:
        report = run_seeds(job, recipe, seeds, Path(folder), bars.of, one_shot=bool(run.get("apply")))
    return compared(entry, evidence(report, job.name))


def _print(found: list[tuple[str, list[Compared]]]) -> None:
    for name, numbers in found:
        console().print(table((name, "recorded", "now", "may differ by", ""), map(_cells, numbers)))


def _cells(one: Compared) -> tuple[str, ...]:
    form = ",.0f" if one.name.endswith(" bytes") else ".4f" if abs(one.recorded) < 10 else ".6g"
    values = (format(value, form) for value in (one.recorded, one.found, one.allowed))
    return (one.name, *values, "holds" if one.holds else "does not hold")
