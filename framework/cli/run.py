"""`paredown run`: run a recipe on a task, and print dense beside compressed; `-m` sweeps over values of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from paredown.framework.cli.arguments import TASK, Overrides, require_source, several_values, wrong_use
from paredown.framework.cli.bars import Bars
from paredown.framework.cli.console import AsJson, Quiet
from paredown.framework.cli.export import Packed, exported
from paredown.framework.cli.sweep import show_sweep

if TYPE_CHECKING:
    from paredown.framework.recipe import Recipe

__all__ = ["register", "run"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown run mnist/prune-quantize-distill --task paredown.integrations.tasks.mnist:task

paredown run recipe.yaml --task my_project.job:task modifiers.prune.final_sparsity=0.8 --seeds 3

paredown run recipe.yaml --task my_project.job:task --apply --output runs/one-shot

paredown run recipe.yaml --task my_project.job:task -m modifiers.prune.final_sparsity=0.8,0.9 hydra/launcher=joblib

paredown run recipe.yaml --task my_project.job:task --sweeper optuna 'variables.sparsity=interval(0.5,0.98)'

paredown run --resume runs/sweep-2027-01-31-12-00-00
"""

Source = Annotated[str | None, typer.Argument(metavar="RECIPE", help="A file, a card, or a bundled name.")]
TaskName = Annotated[str | None, TASK]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FOLDER", help="Where the results go. Default: runs/latest; runs/sweep-DATE-TIME."
    ),
]
Seeds = Annotated[int | None, typer.Option(min=1, help="Runs, with seeds 0, 1, ... Default: the task's own.")]
Apply = Annotated[bool, typer.Option("--apply", help="Run the recipe once, without training.")]
Record = Annotated[bool, typer.Option("--record", help="Write the results into the recipe that is kept.")]
Multirun = Annotated[
    bool, typer.Option("--multirun", "-m", help="A job for each combination of values: a.b=1,2 or a.b='range(1,4)'.")
]
Sweeper = Annotated[str | None, typer.Option(metavar="optuna", help="Search intervals instead of all combinations.")]
Trials = Annotated[int, typer.Option(min=1, help="Jobs of a search.")]
Objectives = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="What a search weighs against each other. Default: the task's metric and bytes."),
]
Export = Annotated[
    str | None, typer.Option(metavar="ENGINE", help="Also write the first seed's model for an engine: model.onnx, ...")
]
Resume = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Go on with a sweep; as resume=FOLDER.")]


class RunOptions(TypedDict):
    """How a recipe is run on a task."""

    seeds: int | None
    one_shot: bool
    record: bool


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(run)


def run(
    recipe: Source = None,
    overrides: Overrides = None,
    task: TaskName = None,
    output: Folder = None,
    seeds: Seeds = None,
    one_shot: Apply = False,
    record: Record = False,
    multirun: Multirun = False,
    sweeper: Sweeper = None,
    trials: Trials = 20,
    objectives: Objectives = None,
    resume: Resume = None,
    export: Export = None,
    packed: Packed = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a dense model, run the recipe on it, and print dense beside compressed.

    Writes report.html, report.json, the recipe that ran and the checkpoint of the first seed. With -m or --sweeper:
    a folder like that for each job, and a table of all.
    """
    given = [*([] if recipe is None else [recipe]), *(overrides or [])]
    resumed = [one for one in given if one.startswith("resume=")]
    if resume is not None or resumed:
        folder = resume or Path(resumed[0].partition("=")[2])
        return _run_sweep(folder, [one for one in given if one not in resumed], quiet, as_json)
    if recipe is None or task is None:
        raise typer.BadParameter("is missing", param_hint="RECIPE" if recipe is None else "--task")
    require_source(recipe)
    if sweeper not in (None, "optuna"):
        raise typer.BadParameter(f"{sweeper!r}; optuna is the one that there is", param_hint="--sweeper")
    from paredown.framework.engine.packing import require_packing
    from paredown.framework.engine.registry import engine_called
    from paredown.framework.recipe import Recipe

    options: RunOptions = {"seeds": seeds, "one_shot": one_shot, "record": record}
    if not multirun and sweeper is None:
        with several_values(overrides or []):
            loaded = Recipe.load(recipe, overrides or [])
        folder = output or Path("runs/latest")
        if export is None:
            return _run(loaded, task, folder, options, quiet, as_json)
        engine = engine_called(export)  # before anything is trained
        if packed:
            require_packing(engine)
        _run(loaded, task, folder, options, quiet, as_json)
        made = exported(folder, task, folder / f"model{engine.suffix}", engine.name, allow_slower=True, packed=packed)
        return None if quiet or as_json else typer.echo(f"\n{made}")
    from paredown.framework.experiments.sweep.creating import create_sweep

    names = None if objectives is None else [name.strip() for name in objectives.split(",")]
    wanted = trials if sweeper else 0
    with wrong_use():
        folder = create_sweep(
            Recipe.load(recipe), task, overrides or [], output, trials=wanted, objectives=names, **options
        )
    return _run_sweep(folder, [], quiet, as_json)


def _run(recipe: Recipe, task: str, folder: Path, options: RunOptions, quiet: bool, as_json: bool) -> None:
    from paredown.framework.experiments.folder import run_in_folder
    from paredown.framework.experiments.task import load_task

    silent = quiet or as_json
    with wrong_use():
        job = load_task(task)
        with Bars(hidden=silent) as bars:
            report = run_in_folder(job, task, recipe, folder, bars.of, None if silent else typer.echo, **options)
    if as_json:
        typer.echo(report.to_json())
    elif not quiet:
        typer.echo(f"\n{report}\n\n{folder / 'report.html'}, report.json, recipe.yaml written")


def _run_sweep(folder: Path, overrides: Sequence[str], quiet: bool, as_json: bool) -> None:
    from paredown.framework.experiments.sweep.running import run_sweep

    with wrong_use():
        show_sweep(run_sweep(folder, overrides), quiet, as_json)
