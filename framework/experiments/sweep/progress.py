"""The events that a running sweep yields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paredown.framework.experiments.sweep.collecting import Sweep
from paredown.framework.experiments.sweep.row import Row

__all__ = ["JobEnded", "JobStarted", "LauncherFailed", "Progress", "SweepEnded", "SweepStarted"]


@dataclass(frozen=True)
class SweepStarted:
    """A sweep starts or is resumed: its folder, the number of its jobs, and how many of them are finished already."""

    folder: Path
    jobs: int
    finished: int


@dataclass(frozen=True)
class JobStarted:
    """A job goes to the launcher, which may run it later: its number, and its overrides."""

    number: int
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class JobEnded:
    """A job finished or failed: its number, and its row in the table."""

    number: int
    row: Row


@dataclass(frozen=True)
class LauncherFailed:
    """The launcher itself failed, although its jobs may still run on the cluster."""

    reason: str


@dataclass(frozen=True)
class SweepEnded:
    """The sweep runs no further jobs: its folder, and the table of its jobs."""

    folder: Path
    sweep: Sweep


Progress = SweepStarted | JobStarted | JobEnded | LauncherFailed | SweepEnded
