"""`paredown sensitivity`: how much each layer's treatment alone hurts the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paredown.framework.cli.bars import Bars
from paredown.framework.cli.console import AsJson, Output, Quiet, print_json, write
from paredown.framework.cli.recipe_arguments import Overrides, Source, TaskName, require_source

if TYPE_CHECKING:
    from paredown.framework.sensitivity import Sensitivity

__all__ = ["register", "sensitivity"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown sensitivity int8 --task paredown.integrations.tasks.mnist:task

paredown sensitivity recipe.yaml --task my_project.job:task --samples 200 --output sensitivity.html
"""

Samples = Annotated[int, typer.Option(min=1, help="How much of the training data is used.")]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(sensitivity)


def sensitivity(
    recipe: Source,
    overrides: Overrides = None,
    task: TaskName = ...,  # type: ignore[assignment]
    samples: Samples = 200,
    as_json: AsJson = False,
    quiet: Quiet = False,
    output: Output = None,
) -> None:
    """Train the dense model, treat one layer at a time at several settings, and tell how much its output changes.

    The settings are those of the first of the recipe's modifiers that has some (of a quantizer: widths in bits).
    --output writes a page with a plot (.html) or data (.json).
    """
    require_source(recipe)
    if output is not None and output.suffix not in (".html", ".json"):
        raise typer.BadParameter(f"{output}: .html or .json", param_hint="--output")
    found = _scan(recipe, overrides or [], task, samples, quiet or as_json)
    rows = [dataclasses.asdict(each) for each in found]
    if as_json or (output is not None and output.suffix == ".json"):
        print_json({"sensitivities": rows}, output)
    elif output is not None:
        _write_page(found, output)
    if not as_json and not quiet:
        typer.echo(_table(found))


def _scan(recipe: str, overrides: list[str], task: str, samples: int, silent: bool) -> list[Sensitivity]:
    from paredown.framework.cli.job import train_dense
    from paredown.framework.cli.task_loading import load_task
    from paredown.framework.errors import ScheduleError
    from paredown.framework.recipe import Recipe
    from paredown.framework.sensitivity import scan
    from paredown.framework.training import Training

    modifiers, job = Recipe.load(recipe, overrides).modifiers, load_task(task)
    with Bars(hidden=silent) as bars:
        training = Training(train_dense(job, job.seeds[0], bars.of(job.seeds[0])))
        training.take(job.train_loader, None, job.example_inputs, None)
        tell = bars.of(job.seeds[0])
        for modifier in modifiers.values():
            trials = modifier.trials(training)
            if trials:
                return scan(training, modifier, trials, samples, lambda done, total: tell("scan", done, total, None))
    raise ScheduleError(f"none of {', '.join(modifiers)} has settings to try")


def _table(found: Sequence[Sensitivity]) -> str:
    """A row a layer, a column a setting."""
    settings = {each.setting: f"{each.setting} {each.unit}" for each in found}
    layers = list(dict.fromkeys(each.layer for each in found))
    errors = {(each.layer, each.setting): each.error for each in found}
    width = max(len(layer) for layer in [*layers, "relative squared error of the output"])
    head = f"{'relative squared error of the output':<{width}}" + "".join(f"{told:>12}" for told in settings.values())
    body = [f"{layer:<{width}}" + "".join(f"{errors[layer, s]:>12.3g}" for s in settings) for layer in layers]
    return "\n".join([head, *body])


def _write_page(found: Sequence[Sensitivity], output: Path) -> None:
    from paredown.framework.report.page import sensitivity_page

    write(sensitivity_page([(each.layer, each.setting, each.error) for each in found], found[0].unit), output)
