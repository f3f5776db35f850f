"""The status of a job, `status.json`: its state, its progress and its error, written by the job itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from paredown.framework.experiments.json_files import read_object, write_object

__all__ = ["FILE", "JobStatus", "read_state", "read_status", "write_status"]

FILE = "status.json"


@dataclass(frozen=True)
class JobStatus:
    """The state of a job, as the job wrote it last.

    Attributes:
        state: ``running``, ``finished`` or ``failed``.
        overrides: what distinguishes it from the other jobs.
        started, ended: seconds since 1970; None where it has not ended.
        doing: its progress in a few words.
        error: the first line of its error; the traceback is in ``error.txt``.
        task: the task's name.
    """

    state: str
    overrides: tuple[str, ...] = ()
    started: float | None = None
    ended: float | None = None
    doing: str = ""
    error: str = ""
    task: str = ""


def write_status(folder: Path, status: JobStatus) -> None:
    """Write the status of the job in a folder, whole or not at all."""
    write_object(folder / FILE, dataclasses.asdict(status))


def read_status(folder: Path) -> JobStatus | None:
    """Read the status of the job in a folder; None where there is no status yet.

    Raises:
        ValueError: the file holds no status.
        OSError: it cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    plain = read_object(path)
    times = [plain.get(name) for name in ("started", "ended")]
    if not all(value is None or isinstance(value, (int, float)) for value in times):
        raise ValueError("started and ended are numbers")
    state, doing, error, task = (str(plain.get(name) or "") for name in ("state", "doing", "error", "task"))
    overrides = plain.get("overrides")
    named = tuple(map(str, overrides if isinstance(overrides, list) else ()))
    return JobStatus(state, named, times[0], times[1], doing, error, task)


def read_state(folder: Path) -> str:
    """The state of the job in a folder; empty where there is no status, or none that can be read."""
    try:
        status = read_status(folder)
    except (OSError, ValueError):
        return ""
    return "" if status is None else status.state
