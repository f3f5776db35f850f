"""`paredown run`: a recipe on a task, dense beside compressed; `-m` sweeps over values of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paredown.framework.cli.arguments import Overrides, require_source
from paredown.framework.cli.bars import Bars
from paredown.framework.cli.console import AsJson, Quiet

if TYPE_CHECKING:
    from paredown.framework.experiments.sweep.manifest import Manifest
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
TaskName = Annotated[
    str | None,
    typer.Option("--task", "-t", metavar="MODULE:FUNCTION", help="A function that returns a Task: model and data."),
]
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
Objectives = Annotated[str, typer.Option(metavar="A,B", help="What a search weighs against each other.")]
Resume = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Go on with a sweep; as resume=FOLDER.")]


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
    objectives: Objectives = "accuracy,bytes",
    resume: Resume = None,
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
        _go_on(folder, [one for one in given if one not in resumed], quiet, as_json)
        return
    if recipe is None or task is None:
        raise typer.BadParameter("is missing", param_hint="RECIPE" if recipe is None else "--task")
    require_source(recipe)
    from paredown.framework.recipe import Recipe

    if not multirun and sweeper is None:
        _run(
            Recipe.load(recipe, overrides or []),
            task,
            output or Path("runs/latest"),
            seeds,
            one_shot,
            record,
            as_json,
            quiet,
        )
        return
    from paredown.framework.experiments.sweep.running import start

    loaded = Recipe.load(recipe)
    wanted = _manifest(loaded, task, overrides or [], seeds, one_shot, record, trials if sweeper else 0, objectives)
    if sweeper not in (None, "optuna"):
        raise typer.BadParameter(f"{sweeper!r}; optuna is the one that there is", param_hint="--sweeper")
    start(loaded, wanted, output, quiet, as_json)


def _run(
    recipe: Recipe, task: str, output: Path, seeds: int | None, one_shot: bool, record: bool, as_json: bool, quiet: bool
) -> None:
    from paredown.framework.experiments.folder import write_results
    from paredown.framework.experiments.seeds import run_seeds
    from paredown.framework.experiments.task_loading import load_task
    from paredown.framework.report.evidence import repeatable

    job = load_task(task)
    silent = quiet or as_json
    with Bars(hidden=silent) as bars:
        chosen = job.seeds if seeds is None else range(seeds)
        report = run_seeds(job, recipe, chosen, output, bars.of, _nothing if silent else typer.echo, one_shot)
    report = repeatable(report, task, chosen, one_shot)
    write_results(report, recipe, output, job.name if record else None)
    if as_json:
        typer.echo(report.to_json())
    elif not quiet:
        typer.echo(f"\n{report}\n\n{output / 'report.html'}, report.json, recipe.yaml written")


def _go_on(folder: Path, others: list[str], quiet: bool, as_json: bool) -> None:
    from paredown.framework.experiments.sweep.overrides import split_hydra
    from paredown.framework.experiments.sweep.running import go_on

    own, hydra = split_hydra(others)
    if own:
        raise typer.BadParameter(
            f"{own[0]}: a sweep goes on as it was started; another launcher is all that it takes", param_hint="--resume"
        )
    go_on(folder, hydra, quiet, as_json)


def _manifest(
    recipe: Recipe,
    task: str,
    overrides: list[str],
    seeds: int | None,
    one_shot: bool,
    record: bool,
    trials: int,
    objectives: str,
) -> Manifest:
    from paredown.framework.experiments.sweep.manifest import Manifest
    from paredown.framework.experiments.sweep.overrides import split_hydra
    from paredown.framework.experiments.sweep.row import QUANTITIES

    own, hydra = split_hydra(overrides)
    names = tuple(name.strip() for name in objectives.split(","))
    if unknown := [name for name in names if name not in QUANTITIES]:
        raise typer.BadParameter(f"{unknown[0]!r}; one of {', '.join(QUANTITIES)}", param_hint="--objectives")
    return Manifest(
        recipe=recipe.name,
        recipe_text=recipe.to_yaml(),
        task=task,
        working_folder=str(Path.cwd()),
        overrides=tuple(own),
        hydra=tuple(hydra),
        seeds=seeds,
        one_shot=one_shot,
        record=record,
        trials=trials,
        objectives=names if trials else (),
    )


def _nothing(text: str) -> None:
    """Shows nothing."""
