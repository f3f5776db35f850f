"""`paredown run`: a recipe on a task, dense beside compressed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.framework.cli.bars import Bars
from paredown.framework.cli.console import AsJson, Quiet, write
from paredown.framework.cli.recipe_arguments import Overrides, Source, TaskName, require_source

if TYPE_CHECKING:
    from paredown.framework.cli.job import Outcome
    from paredown.framework.recipe import Recipe
    from paredown.framework.report import Report

__all__ = ["register", "run"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown run mnist/prune-quantize-distill --task paredown.integrations.tasks.mnist:task

paredown run recipe.yaml --task my_project.job:task modifiers.prune.final_sparsity=0.8 --seeds 3

paredown run recipe.yaml --task my_project.job:task --apply --output runs/one-shot
"""

Folder = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the results go.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Runs, with seeds 0, 1, ... Default: the task's own.")]
Apply = Annotated[bool, typer.Option("--apply", help="Run the recipe once, without training.")]
Record = Annotated[bool, typer.Option("--record", help="Write the results into the recipe that is kept.")]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(run)


def run(
    recipe: Source,
    overrides: Overrides = None,
    task: TaskName = ...,  # type: ignore[assignment]
    output: Folder = Path("runs/latest"),
    seeds: Seeds = None,
    one_shot: Apply = False,
    record: Record = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a dense model, run the recipe on it, and print dense beside compressed.

    Writes report.html, report.json, the recipe that ran and the checkpoint of the first seed.
    """
    require_source(recipe)
    from paredown.framework.cli.job import run_seed, together
    from paredown.framework.cli.task_loading import load_task
    from paredown.framework.recipe import Recipe

    loaded, job = Recipe.load(recipe, overrides or []), load_task(task)
    silent = quiet or as_json
    with Bars(hidden=silent) as bars:
        outcomes: list[Outcome] = []
        for seed in job.seeds if seeds is None else range(seeds):
            folder = output / f"seed-{seed}" if outcomes else output
            show = _nothing if outcomes or silent else typer.echo
            outcomes.append(run_seed(job, loaded, seed, folder, bars.of(seed), show, one_shot))
    report = together(outcomes, job)
    _write(report, loaded, output, job.name if record else None)
    if as_json:
        typer.echo(report.to_json())
    elif not quiet:
        typer.echo(f"\n{report}\n\n{output / 'report.html'}, report.json, recipe.yaml written")


def _write(report: Report, recipe: Recipe, output: Path, recorded: str | None) -> None:
    from paredown.framework.recipe.writing import to_yaml

    report.save(output / "report.html")
    report.save(output / "report.json")
    text = recipe.to_yaml()
    if recorded is not None:
        import yaml

        values = yaml.safe_load(text)
        values["results"] = [*values.get("results", []), _result(report, recorded)]
        text = to_yaml(values)
    write(text, output / "recipe.yaml")


def _result(report: Report, task: str) -> dict[str, Any]:
    plain = json.loads(report.to_json())
    return {
        "task": task,
        "dense": {"accuracies": plain["dense"]["accuracies"], "bytes": plain["dense"]["bytes"]},
        "compressed": {"accuracies": plain["compressed"]["accuracies"], "bytes": plain["compressed"]["bytes"]},
        "size_ratio": round(plain["compressed"]["bytes"] / plain["dense"]["bytes"], 4),
        "versions": plain["versions"],
    }


def _nothing(text: str) -> None:
    """Shows nothing."""
