"""`paredown plan`: print the effects of a recipe on a model, without running it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from paredown.framework.cli.arguments import Overrides, Source, TaskName, require_source, wrong_use
from paredown.framework.cli.console import AsJson, Output, print_json, print_text
from paredown.framework.cli.export import Packed

__all__ = ["plan", "register"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown plan mnist/prune-quantize-distill --task paredown.integrations.tasks.mnist:task

paredown plan recipe.yaml --task my_project.job:task modifiers.prune.end=20 --json
"""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(plan)


def plan(
    recipe: Source,
    overrides: Overrides = None,
    task: TaskName = ...,  # type: ignore[assignment]
    rehearse: Annotated[
        bool, typer.Option(help="Foresee the file for the recipe's engine, on a copy that is written and measured.")
    ] = True,
    packed: Packed = False,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Show which layers each modifier matches, when, and the size to be expected."""
    require_source(recipe)
    from paredown.framework.experiments.task import load_task
    from paredown.framework.run.manager import ScheduledManager

    manager = ScheduledManager.from_yaml(recipe, overrides or [])
    with wrong_use():
        job = load_task(task)
    planned = manager.plan(
        job.build_model(),
        steps_per_epoch=len(job.train_loader),
        example_inputs=job.example_inputs,
        data=job.train_loader,
        rehearse=rehearse,
        packed=packed,
    )
    if as_json:
        print_json(dataclasses.asdict(planned), output)
    else:
        print_text(f"{planned}\n", output)
