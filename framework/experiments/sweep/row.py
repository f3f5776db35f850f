"""A job of a sweep as a row of the table, read from whatever its folder holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paredown.framework.errors import ParedownError, first_line
from paredown.framework.experiments.sweep.claims import is_claimed
from paredown.framework.experiments.sweep.job_status import FILE, JobStatus, read_status
from paredown.framework.report import Report, Summary
from paredown.framework.report.metrics import Metric
from paredown.framework.report.spread import Spread

__all__ = ["COSTS", "QUANTITIES", "REPORT", "Row", "is_job", "read_row"]

REPORT = "report.json"
OVERRIDES = Path(".hydra", "overrides.yaml")
#: the quantities that jobs are compared by, beside the metrics of their task
QUANTITIES = ("bytes", "macs", "latency", "nonzeros", "sparsity")
#: the quantities that the metric which decides is weighed against in a Pareto front
COSTS = ("bytes", "macs", "latency")


@dataclass(frozen=True)
class Row:
    """A job, its state and its results.

    Attributes:
        folder: the job's own.
        overrides: those that distinguish it from the other jobs.
        state: ``finished``, ``failed``, ``running``, ``unfinished`` (killed, or half written) or ``waiting``.
        error: why it failed, or which file cannot be read.
        compressed, dense: the metrics and quantities that were measured, by name; latency is the median, in
            milliseconds.
        metrics: those of the task; the first one decides.
        values: of each metric, one a seed.
        seconds: the time that it took.
        doing: the progress of a running or unfinished job.
        task, recipe: their names, where the folder holds them.
    """

    folder: Path
    overrides: tuple[str, ...] = ()
    state: str = "waiting"
    error: str = ""
    compressed: Mapping[str, float] = field(default_factory=dict)
    dense: Mapping[str, float] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seconds: float | None = None
    doing: str = ""
    task: str = ""
    recipe: str = ""

    @property
    def label(self) -> str:
        """The overrides in one line; the recipe's name where there are none."""
        return " ".join(self.overrides) or self.recipe or self.folder.name

    @property
    def seeds(self) -> int:
        """How many seeds were evaluated."""
        return max(map(len, self.values.values()), default=0)

    def spread(self, metric: str) -> float | None:
        """The standard deviation of a metric over seeds; None for one seed."""
        values = self.values.get(metric, ())
        return Spread.of(values).deviation if len(values) > 1 else None


def is_job(folder: Path) -> bool:
    """Whether a folder is that of a job: of `paredown run`, or of a Hydra app that wrote a report."""
    return any((folder / name).exists() for name in (FILE, REPORT, OVERRIDES))


def read_row(folder: Path) -> Row:
    """Read a job from its folder; a file that is broken or half written becomes the row's error and never raises."""
    problems: list[str] = []
    status, overrides = _status(folder, problems), _overrides(folder, problems)
    values = _report_values(folder, problems)
    diverged = values.pop("diverged", ())
    problems += [f"the {name} is not a number: the training diverged" for name in diverged]
    state = _state(folder, status, values)
    if state == "finished" and diverged:
        state = "failed"
    ended = status.ended if status else None
    error = status.error if status and status.state == "failed" else "; ".join(problems)
    return Row(
        folder,
        overrides or (status.overrides if status else ()),
        state,
        error,
        seconds=None if ended is None or status is None or status.started is None else ended - status.started,
        doing=status.doing if status and state in ("running", "unfinished") else "",
        task=status.task if status else "",
        **(values if state == "finished" else {}),
    )


def _state(folder: Path, status: JobStatus | None, values: Mapping[str, Any]) -> str:
    if status is None and values:
        return "finished"
    if status is not None and status.state == "failed":
        return "failed"
    if status is not None and status.state == "finished":
        return "finished" if values else "unfinished"
    return "running" if is_claimed(folder) else "unfinished"


def _status(folder: Path, problems: list[str]) -> JobStatus | None:
    try:
        return read_status(folder)
    except (OSError, ValueError) as error:
        problems.append(f"{FILE} cannot be read: {first_line(error) or type(error).__name__}")
        return None


def _overrides(folder: Path, problems: list[str]) -> tuple[str, ...]:
    path = folder / OVERRIDES
    if not path.exists():
        return ()
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        return tuple(map(str, plain)) if isinstance(plain, list) else ()
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problems.append(f"{OVERRIDES} cannot be read: {first_line(error) or type(error).__name__}")
        return ()


def _report_values(folder: Path, problems: list[str]) -> dict[str, Any]:
    path = folder / REPORT
    if not path.exists():
        return {}
    try:
        report = Report.from_json(path.read_text(encoding="utf-8"))
        values = {name: tuple(map(float, each)) for name, each in report.compressed.values.items()}
        diverged = [name for name, each in values.items() if not all(map(math.isfinite, each))]
        return {
            "diverged": diverged,
            "compressed": _quantities(report.compressed),
            "dense": _quantities(report.dense),
            "metrics": report.metrics,
            "values": {name: each for name, each in values.items() if name not in diverged},
            "recipe": str(report.recipe),
        }
    except (OSError, ParedownError, ValueError, TypeError, LookupError, RecursionError) as error:
        problems.append(f"{REPORT} cannot be read: {first_line(error) or type(error).__name__}")
        return {}


def _quantities(summary: Summary) -> dict[str, float]:
    """The metrics and quantities of one model that were measured; a model that diverged lacks metrics.

    Raises:
        TypeError, ValueError: one is no number.
    """
    latency = None if summary.latency is None else summary.latency[1]
    measured = (summary.bytes, summary.macs, latency, summary.nonzeros, summary.sparsity)
    found = {name: value for name, value in zip(QUANTITIES, measured, strict=True) if value is not None}
    if not all(math.isfinite(value) for value in found.values()):
        raise ValueError("a quantity is not finite")
    return {**{name: value for name, value in summary.metrics.items() if math.isfinite(value)}, **found}
