"""A run whose results lie in a folder: report.html, report.json, the recipe that ran, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paredown.framework.errors import ArgumentError
from paredown.framework.experiments.seeds import Show, run_seeds
from paredown.framework.experiments.task import Task
from paredown.framework.experiments.training_loop import Progress
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.report.evidence import repeatable, with_evidence
from paredown.framework.storage.files import write_text

__all__ = ["run_in_folder"]


def run_in_folder(
    task: Task,
    source: str,
    recipe: Recipe,
    folder: Path,
    progress: Callable[[int], Progress],
    show: Show | None = None,
    *,
    seeds: int | None = None,
    one_shot: bool = False,
    record: bool = False,
    dense: Path | None = None,
) -> Report:
    """Run a recipe on a task under several seeds, and write the results into a folder.

    Args:
        source: the task as ``module:function``, by which `paredown verify` runs it again.
        seeds: how many, from 0; by default the task's own.
        record: write the results into the recipe that is kept.
        progress, show, one_shot, dense: as of `run_seeds`.

    Raises:
        ArgumentError: the folder cannot be written.
    """
    chosen = task.seeds if seeds is None else range(seeds)
    report = run_seeds(task, recipe, chosen, folder, progress, show, one_shot, dense)
    report = repeatable(report, source, chosen, one_shot)
    try:
        _write(report, recipe, folder, task.name if record else None)
    except OSError as error:
        raise ArgumentError(f"{folder} cannot be written: {error.strerror}", "folder") from error
    return report


def _write(report: Report, recipe: Recipe, folder: Path, recorded: str | None) -> None:
    """Write the report and the recipe; the recipe records the results under the task's name where that is given."""
    report.save(folder / "report.html")
    report.save(folder / "report.json")
    text = recipe.to_yaml()
    write_text(folder / "recipe.yaml", text if recorded is None else with_evidence(text, report, recorded))
