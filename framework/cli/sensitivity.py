"""`paredown sensitivity`: measure how much treating one layer alone harms the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.framework.cli.arguments import Overrides, Source, TaskName, require_source, wrong_use
from paredown.framework.cli.bars import Bars
from paredown.framework.cli.console import AsJson, Output, Quiet, print_json, write

if TYPE_CHECKING:
    from paredown.framework.calibration.sensitivity import Sensitivity
    from paredown.framework.experiments.settings_recipe import SettingsRecipe

__all__ = ["register", "sensitivity"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown sensitivity int8 --task paredown.integrations.tasks.mnist:task

paredown sensitivity recipe.yaml --task my_project.job:task --samples 200 --output sensitivity.html

paredown sensitivity prune90 --task my_project.job:task --measure loss --recipe by-layer.yaml --target 0.8
"""


class Measure(str, Enum):
    """The harm that is measured."""

    output = "output"
    loss = "loss"

    @property
    def words(self) -> str:
        """The measure in words."""
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
    """Train the dense model, treat one layer at a time at several settings, and print how much that hurts.

    The settings are those of the first of the recipe's modifiers that has some: of a quantizer widths in bits, of
    pruning shares of zeros. --output writes a page with a plot (.html) or data (.json). --recipe writes the recipe with
    a setting for each layer, chosen so that together they reach --target and hurt least.
    """
    require_source(recipe)
    if output is not None and output.suffix not in (".html", ".json"):
        raise typer.BadParameter(f"{output}: .html or .json", param_hint="--output")
    settings = _settings(written, target)
    found, made = _scan(recipe, overrides or [], task, samples, measure, settings, quiet or as_json)
    rows = {"measure": measure.value, "sensitivities": [dataclasses.asdict(each) for each in found], **made}
    if as_json or (output is not None and output.suffix == ".json"):
        print_json(rows, output)
    elif output is not None:
        _write_page(found, measure, output)
    if not as_json and not quiet:
        typer.echo(_table(found, measure))
        for each in made.values():
            typer.echo(f"\n{each['path']} written: it reaches {each['reached']:.4g} at a target of {each['target']:g}")


def _settings(path: Path | None, target: float | None) -> SettingsRecipe | None:
    """The recipe that --recipe and --target ask for.

    Raises:
        typer.BadParameter: one of them is missing, or the file has no recipe's name (exit code 2).
    """
    from paredown.framework.experiments.settings_recipe import SettingsRecipe

    if path is None and target is None:
        return None
    if path is None or target is None:
        raise typer.BadParameter("--recipe and --target go together", param_hint="--recipe")
    if path.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter(f"{path}: .yaml or .yml", param_hint="--recipe")
    return SettingsRecipe(path, target)


def _scan(
    recipe: str,
    overrides: list[str],
    task: str,
    samples: int,
    measure: Measure,
    settings: SettingsRecipe | None,
    silent: bool,
) -> tuple[list[Sensitivity], dict[str, Any]]:
    from paredown.framework.experiments.sensitivity import scan_task
    from paredown.framework.experiments.task import load_task
    from paredown.framework.recipe import Recipe

    loaded = Recipe.load(recipe, overrides)
    with wrong_use():
        job = load_task(task)
        with Bars(hidden=silent) as bars:
            return scan_task(job, loaded, samples, measure is Measure.loss, bars.of, settings)


def _table(found: Sequence[Sensitivity], measure: Measure) -> str:
    """The errors as text: a row for each layer, a column for each setting."""
    from paredown.framework.calibration.sensitivity import shown

    settings = {each.setting: shown(each.setting, each.unit) for each in found}
    layers = list(dict.fromkeys(each.layer for each in found))
    errors = {(each.layer, each.setting): each.error for each in found}
    width = max(len(layer) for layer in [*layers, measure.words])
    head = f"{measure.words:<{width}}" + "".join(f"{name:>12}" for name in settings.values())
    body = [f"{layer:<{width}}" + "".join(f"{errors[layer, s]:>12.3g}" for s in settings) for layer in layers]
    return "\n".join([head, *body])


def _write_page(found: Sequence[Sensitivity], measure: Measure, output: Path) -> None:
    from paredown.framework.report.page import sensitivity_page

    rows = [(each.layer, each.setting, each.error) for each in found]
    write(sensitivity_page(rows, found[0].unit, measure.words, logarithm=measure is Measure.output), output)
