"""Picking the best job of a sweep, and its recipe with its results."""

from __future__ import annotations

from pathlib import Path

from paredown.framework.errors import ArgumentError, ParedownError, did_you_mean
from paredown.framework.experiments.sweep.collecting import Sweep
from paredown.framework.experiments.sweep.condition import Condition
from paredown.framework.experiments.sweep.row import GAINS, QUANTITIES, REPORT, Row
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.report.evidence import with_evidence

__all__ = ["pick", "winning_recipe"]


def pick(sweep: Sweep, condition: Condition, by: str) -> Row:
    """Pick the finished job with the best quantity for which a condition holds; of equals, the more accurate one.

    Raises:
        ArgumentError: there is no such quantity.
        ParedownError: the condition holds for no job.
    """
    if by not in QUANTITIES:
        raise ArgumentError(f"{by!r}{did_you_mean(by, QUANTITIES)}; one of {', '.join(QUANTITIES)}", "by")
    finished = sweep.in_state("finished")
    holding = [row for row in finished if condition.holds(row) and by in row.compressed]
    if not holding:
        missing = [name for name in (*condition.quantities, by) if not any(name in row.compressed for row in finished)]
        why = f"; {', '.join(dict.fromkeys(missing))}: measured in none" if missing and finished else ""
        raise ParedownError(f"none of {len(finished)} finished jobs holds {condition.text!r}{why}")
    sign = -1 if by in GAINS else 1
    return min(holding, key=lambda row: (sign * row.compressed[by], -row.compressed.get("accuracy", 0.0)))


def winning_recipe(row: Row) -> str:
    """The recipe of a job as YAML, with its overrides merged in and its results recorded.

    Raises:
        ParedownError: the job's report cannot be read, or holds no recipe.
    """
    try:
        report = Report.from_json((row.folder / REPORT).read_text(encoding="utf-8"))
    except OSError as error:
        raise ParedownError(f"{row.folder / REPORT} cannot be read: {error.strerror}") from error
    return with_evidence(_recipe_text(row.folder, report), report, row.task or report.task or row.folder.name)


def _recipe_text(folder: Path, report: Report) -> str:
    kept = folder / "recipe.yaml"
    if not kept.exists() and not report.recipe_text:
        raise ParedownError(f"{folder} holds neither recipe.yaml nor a report with the recipe")
    if not kept.exists():
        return report.recipe_text
    return Recipe.load(kept).to_yaml()
