"""`paredown sensitivity`: how much each layer's treatment alone hurts the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.framework.cli.arguments import Overrides, Source, TaskName, require_source
from paredown.framework.cli.bars import Bars
from paredown.framework.cli.console import AsJson, Output, Quiet, print_json, write
from paredown.framework.cli.settings_recipe import Wanted

if TYPE_CHECKING:
    from paredown.framework.calibration.sensitivity import Loss, Sensitivity, Trial
    from paredown.framework.experiments.task import Task
    from paredown.framework.modifier.base import Modifier
    from paredown.framework.modifier.training import Training

__all__ = ["register", "sensitivity"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown sensitivity int8 --task paredown.integrations.tasks.mnist:task

paredown sensitivity recipe.yaml --task my_project.job:task --samples 200 --output sensitivity.html

paredown sensitivity prune90 --task my_project.job:task --measure loss --recipe by-layer.yaml --target 0.8
"""


class Measure(str, Enum):
    """What is measured."""

    output = "output"
    loss = "loss"

    @property
    def told(self) -> str:
        return "rise of the loss" if self is Measure.loss else "relative squared error of the output"


Samples = Annotated[int, typer.Option(min=1, help="How much of the training data is used.")]
Measured = Annotated[Measure, typer.Option(help="The change of the model's output, or the rise of the task's loss.")]
Written = Annotated[
    Path | None,
    typer.Option("--recipe", metavar="FILE", help="Write the recipe with the settings that reach --target."),
]
Target = Annotated[
    float | None, typer.Option(min=0, max=1, help="What they are to save: of pruning, the share of zeros.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(sensitivity)


def sensitivity(
    recipe: Source,
    overrides: Overrides = None,
    task: TaskName = ...,  # type: ignore[assignment]
    samples: Samples = 200,
    measure: Measured = Measure.output,
    written: Written = None,
    target: Target = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    output: Output = None,
) -> None:
    """Train the dense model, treat one layer at a time at several settings, and tell how much that hurts.

    The settings are those of the first of the recipe's modifiers that has some: of a quantizer widths in bits, of
    pruning shares of zeros. --output writes a page with a plot (.html) or data (.json). --recipe writes the recipe with
    a setting for each layer, chosen so that together they reach --target and hurt least.
    """
    require_source(recipe)
    if output is not None and output.suffix not in (".html", ".json"):
        raise typer.BadParameter(f"{output}: .html or .json", param_hint="--output")
    wanted = Wanted.of(written, target)
    found, told = _scan(recipe, overrides or [], task, samples, measure, wanted, quiet or as_json)
    rows = {"measure": measure.value, "sensitivities": [dataclasses.asdict(each) for each in found], **told}
    if as_json or (output is not None and output.suffix == ".json"):
        print_json(rows, output)
    elif output is not None:
        _write_page(found, measure, output)
    if not as_json and not quiet:
        typer.echo(_table(found, measure))
        for each in told.values():
            typer.echo(f"\n{each['path']} written: it reaches {each['reached']:.4g} at a target of {each['target']:g}")


def _scan(
    recipe: str, overrides: list[str], task: str, samples: int, measure: Measure, wanted: Wanted | None, silent: bool
) -> tuple[list[Sensitivity], dict[str, Any]]:
    """What was found, and what was written of it."""
    from paredown.framework.calibration.sensitivity import scan
    from paredown.framework.experiments.seeds import train_dense
    from paredown.framework.experiments.task import load_task
    from paredown.framework.modifier.training import Training
    from paredown.framework.recipe import Recipe

    loaded, job = Recipe.load(recipe, overrides), load_task(task)
    with Bars(hidden=silent) as bars:
        tell = bars.of(job.seeds[0])
        training = Training(train_dense(job, job.seeds[0], tell))
        training.take(job.train_loader, None, job.example_inputs, None)
        modifier, trials = _first_with_trials(training, list(loaded.modifiers.values()))
        if wanted is not None:
            wanted.fields(training, modifier, {trial.layer: None for trial in trials})
        loss = _loss_of(job) if measure is Measure.loss else None
        found = scan(training, modifier, trials, samples, lambda done, total: tell("scan", done, total, None), loss)
    return found, {} if wanted is None else {"recipe": wanted.write(loaded, training, modifier, found)}


def _first_with_trials(training: Training, modifiers: Sequence[Modifier]) -> tuple[Modifier, Sequence[Trial]]:
    from paredown.framework.errors import ScheduleError

    for modifier in modifiers:
        trials = modifier.trials(training)
        if trials:
            return modifier, trials
    raise ScheduleError(f"none of {', '.join(each.name for each in modifiers)} has settings to try")


def _loss_of(job: Task) -> Loss:
    return lambda output, batch: job.loss(output, batch[1])


def _table(found: Sequence[Sensitivity], measure: Measure) -> str:
    """A row a layer, a column a setting."""
    from paredown.framework.calibration.sensitivity import shown

    settings = {each.setting: shown(each.setting, each.unit) for each in found}
    layers = list(dict.fromkeys(each.layer for each in found))
    errors = {(each.layer, each.setting): each.error for each in found}
    width = max(len(layer) for layer in [*layers, measure.told])
    head = f"{measure.told:<{width}}" + "".join(f"{told:>12}" for told in settings.values())
    body = [f"{layer:<{width}}" + "".join(f"{errors[layer, s]:>12.3g}" for s in settings) for layer in layers]
    return "\n".join([head, *body])


def _write_page(found: Sequence[Sensitivity], measure: Measure, output: Path) -> None:
    from paredown.framework.report.page import sensitivity_page

    rows = [(each.layer, each.setting, each.error) for each in found]
    write(sensitivity_page(rows, found[0].unit, measure.told, logarithm=measure is Measure.output), output)
