"""The table of sweeps: the jobs below some folders, and the Pareto fronts among them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from paredown.framework.errors import ArgumentError, ParedownError
from paredown.framework.experiments.sweep.manifest import read_manifest
from paredown.framework.experiments.sweep.row import COSTS, QUANTITIES, Row, is_job, read_row
from paredown.framework.report.metrics import ACCURACY, Metric

__all__ = ["Sweep", "collect", "pareto_front"]

#: Hydra's own folders are four deep at most: multirun/<date>/<time>/<job>
DEEPEST = 6


@dataclass(frozen=True)
class Sweep:
    """A table of jobs, with their Pareto fronts."""

    rows: tuple[Row, ...]

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of all jobs, those of the first ones first."""
        found: dict[str, Metric] = {}
        for row in self.rows:
            for metric in row.metrics:
                found.setdefault(metric.name, metric)
        return tuple(found.values())

    @property
    def deciding(self) -> Metric:
        """The metric that is weighed against costs: the first one; before a job has any, the accuracy."""
        return self.metrics[0] if self.metrics else ACCURACY

    @property
    def quantities(self) -> tuple[str, ...]:
        """Everything that jobs are compared by: metrics, sizes and latency."""
        return (*(metric.name for metric in self.metrics or (ACCURACY,)), *QUANTITIES)

    @cached_property
    def fronts(self) -> dict[str, tuple[Row, ...]]:
        """For each cost, the finished jobs that no other beats in the deciding metric and cost, by rising cost; none
        where it is not known which values of the metric are better."""
        return {cost: tuple(self._front(cost)) for cost in COSTS}

    def marks(self, row: Row) -> tuple[str, ...]:
        """The costs in which a job is on the Pareto front."""
        return tuple(cost for cost in COSTS if any(other is row for other in self.fronts[cost]))

    def in_state(self, *states: str) -> tuple[Row, ...]:
        """The jobs that are in one of the states."""
        return tuple(row for row in self.rows if row.state in states)

    def measured(self, cost: str) -> tuple[Row, ...]:
        """The finished jobs that have the deciding metric and this cost."""
        return tuple(row for row in self.in_state("finished") if {self.deciding.name, cost} <= set(row.compressed))

    def _front(self, cost: str) -> Iterator[Row]:
        metric = self.deciding
        rows = self.measured(cost) if metric.sign else ()
        points = [(row.compressed[cost], metric.sign * row.compressed[metric.name]) for row in rows]
        return (rows[index] for index in pareto_front(points))


def collect(folders: Iterable[Path]) -> Sweep:
    """Read every job below some folders, once each, in the order of their names.

    Raises:
        ArgumentError: a folder does not exist.
    """
    rows: dict[Path, Row] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ArgumentError(f"{folder}: no such folder", "folders")
        for row in _rows(folder, 0):
            rows.setdefault(row.folder.resolve(), row)
    return Sweep(tuple(rows.values()))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points that no other point beats, by rising cost.

    Args:
        points: (cost, gain). A point is beaten by one that costs no more and gains no less, and differs.

    >>> pareto_front([(3, 0.9), (1, 0.5), (2, 0.95), (1, 0.5)])
    [1, 3, 2]
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1], index)):
        last = points[front[-1]] if front else None
        if last is None or points[index][1] > last[1] or points[index] == last:
            front.append(index)
    return front


def _rows(folder: Path, depth: int) -> Iterator[Row]:
    if is_job(folder):
        yield read_row(folder)
        return
    waiting = _waiting(folder)
    below = {path.name: path for path in _folders(folder)} if depth < DEEPEST else {}
    for name in sorted({*waiting, *below}, key=_natural):
        found = list(_rows(below[name], depth + 1)) if name in below else []
        yield from found or ([waiting[name]] if name in waiting else [])


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return


def _waiting(folder: Path) -> dict[str, Row]:
    """The jobs of a sweep's manifest, by the names of their folders."""
    try:
        jobs = read_manifest(folder).jobs
    except ParedownError:
        return {}
    return {str(number): Row(folder / str(number), overrides) for number, overrides in enumerate(jobs)}


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts job 10 behind job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
