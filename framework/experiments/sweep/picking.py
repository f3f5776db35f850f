"""Picking the best job of a sweep, and its recipe with its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paredown.framework.errors import ArgumentError, ParedownError, did_you_mean
from paredown.framework.experiments.sweep.collecting import Sweep
from paredown.framework.experiments.sweep.condition import Condition
from paredown.framework.experiments.sweep.row import REPORT, Row
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.report.evidence import with_evidence
from paredown.framework.report.metrics import Metric

__all__ = ["pick", "sign_of", "winning_recipe"]


def pick(sweep: Sweep, condition: Condition, by: str) -> Row:
    """Pick the finished job with the best quantity for which a condition holds; of equals, the one whose deciding
    metric is better.

    Raises:
        ArgumentError: there is no such quantity, or it is not known which of its values are better.
        ParedownError: the condition holds for no job.
    """
    if by not in sweep.quantities:
        known = ", ".join(sweep.quantities)
        raise ArgumentError(f"{by!r}{did_you_mean(by, sweep.quantities)}; one of {known}", "by")
    sign = sign_of(by, sweep.metrics)
    finished = sweep.in_state("finished")
    holding = [row for row in finished if condition.holds(row) and by in row.compressed]
    if not holding:
        missing = [name for name in (*condition.quantities, by) if not any(name in row.compressed for row in finished)]
        why = f"; {', '.join(dict.fromkeys(missing))}: measured in none" if missing and finished else ""
        raise ParedownError(f"none of {len(finished)} finished jobs holds {condition.text!r}{why}")
    metric = sweep.deciding
    return min(
        holding, key=lambda row: (-sign * row.compressed[by], -metric.sign * row.compressed.get(metric.name, 0.0))
    )


def sign_of(quantity: str, metrics: Sequence[Metric], argument: str = "by") -> int:
    """1 for a quantity of which more is better, -1 for one of which less is.

    Raises:
        ArgumentError: a metric of which that is not known.
    """
    metric = next((one for one in metrics if one.name == quantity), None)
    if metric is None:
        return 1 if quantity == "sparsity" else -1
    if not metric.sign:
        raise ArgumentError(
            f"whether more of {quantity!r} is better is not known: Task(metrics={{{quantity!r}: 'min'}}), or 'max'",
            argument,
        )
    return metric.sign


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
