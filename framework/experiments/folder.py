"""The files that a run leaves: report.html, report.json, and the recipe that ran."""

from __future__ import annotations

from pathlib import Path

from paredown.framework.cli.console import write
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.report.evidence import with_evidence

__all__ = ["write_results"]


def write_results(report: Report, recipe: Recipe, folder: Path, task: str | None) -> None:
    """Write them; with the name of the task, the recipe's `results` get this run's."""
    report.save(folder / "report.html")
    report.save(folder / "report.json")
    text = recipe.to_yaml()
    write(text if task is None else with_evidence(text, report, task), folder / "recipe.yaml")
