"""`paredown recommend`: from budgets to a recipe with its proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paredown.framework.cli.arguments import TaskName, wrong_use
from paredown.framework.cli.console import AsJson, Quiet, print_json

__all__ = ["recommend", "register"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown recommend --task my_project.job:task --budget 'bytes <= 0.1x' --budget 'accuracy >= dense - 0.01' --time 30m

paredown recommend --task my_project.job:task --budget 'latency <= 0.5x' --engine openvino --output recommended
"""

Budgets = Annotated[
    list[str],
    typer.Option(
        "--budget",
        "-b",
        metavar="BUDGET",
        help="On bytes, zipped, latency, macs, parameters or a metric: 'bytes <= 0.1x', 'accuracy >= dense - 0.01'.",
    ),
]
EngineName = Annotated[str, typer.Option("--engine", metavar="NAME", help="For which the model is made.")]
Time = Annotated[str, typer.Option("--time", metavar="TIME", help="At most: 90s, 30m, 2h.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same answer.")]
Folder = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything goes.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a search of the same folder that was killed.")]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(recommend)


def recommend(
    task: TaskName,
    budget: Budgets,
    engine: EngineName = "onnxruntime",
    time: Time = "30m",
    output: Folder = Path("recommended"),
    seed: Seed = 0,
    resume: Resume = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find the recipe that meets budgets at the least loss, by trying; write it with its proof and the engine's file.

    Exit code 0: the budgets are met; 1: they are not, and the nearest is written.
    """
    from paredown.framework.experiments.recommend import recommend as search
    from paredown.framework.experiments.recommend.recommend import check_folder
    from paredown.framework.experiments.task import load_task

    silent = quiet or as_json
    with wrong_use():
        job = load_task(task)
        check_folder(output, resume)
        tell = _say_nothing if silent else typer.echo
        found = search(job, budget, engine=engine, time=time, seed=seed, output=output, source=task, tell=tell)
    found.save(output)
    if as_json:
        print_json(found.to_json())
    elif not quiet:
        typer.echo(f"\n{found}\n\n{output / 'recipe.yaml'}, recommendation.html, report.html written")
    if not found.met:
        raise typer.Exit(1)


def _say_nothing(line: str) -> None:
    pass
