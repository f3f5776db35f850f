"""The jobs below some folders, as rows of one table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from paredown.framework.errors import ParedownError
from paredown.framework.experiments.sweep.manifest import read_manifest
from paredown.framework.experiments.sweep.pareto import pareto_front
from paredown.framework.experiments.sweep.row import COSTS, Row, is_job, read_row

__all__ = ["Sweep", "collect"]

#: Hydra's own folders are four deep at most: multirun/<date>/<time>/<job>
DEEPEST = 6


@dataclass(frozen=True)
class Sweep:
    """Jobs, compared with each other."""

    rows: tuple[Row, ...]

    @cached_property
    def fronts(self) -> dict[str, tuple[Row, ...]]:
        """For each cost, what no other finished job beats in accuracy and cost, by rising cost."""
        return {cost: tuple(self._front(cost)) for cost in COSTS}

    def marks(self, row: Row) -> tuple[str, ...]:
        """The costs in which a job is on the Pareto front."""
        return tuple(cost for cost in COSTS if any(other is row for other in self.fronts[cost]))

    def in_state(self, *states: str) -> tuple[Row, ...]:
        """The jobs that are in one of the states."""
        return tuple(row for row in self.rows if row.state in states)

    def measured(self, cost: str) -> tuple[Row, ...]:
        """The finished jobs that have an accuracy and this cost."""
        return tuple(row for row in self.in_state("finished") if {"accuracy", cost} <= set(row.compressed))

    def _front(self, cost: str) -> Iterator[Row]:
        rows = self.measured(cost)
        points = [(row.compressed[cost], row.compressed["accuracy"]) for row in rows]
        return (rows[index] for index in pareto_front(points))


def collect(folders: Iterable[Path]) -> Sweep:
    """Every job below the folders, in the order of their names, once each.

    Raises:
        ParedownError: a folder does not exist.
    """
    rows: dict[Path, Row] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ParedownError(f"{folder}: no such folder")
        for row in _rows(folder, 0):
            rows.setdefault(row.folder.resolve(), row)
    return Sweep(tuple(rows.values()))


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
    """The jobs that a sweep's manifest names, by the names of their folders."""
    try:
        jobs = read_manifest(folder).jobs
    except ParedownError:
        return {}
    return {str(number): Row(folder / str(number), overrides) for number, overrides in enumerate(jobs)}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts job 10 behind job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
