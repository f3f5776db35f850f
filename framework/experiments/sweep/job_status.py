"""`status.json`: what a job of a sweep says about itself while it runs and afterwards."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.framework.storage.files import write_text

__all__ = ["FILE", "JobStatus", "read_status", "write_status"]

FILE = "status.json"
LONGEST = 1_000_000


@dataclass(frozen=True)
class JobStatus:
    """How a job stands.

    Attributes:
        state: ``running``, ``finished`` or ``failed``.
        overrides: what distinguishes it from the other jobs.
        started, ended: seconds since 1970; None where it has not ended.
        doing: a few words on how far it is.
        error: what it failed with; the traceback is in ``error.txt``.
        task: the name of what was trained.
    """

    state: str
    overrides: tuple[str, ...] = ()
    started: float | None = None
    ended: float | None = None
    doing: str = ""
    error: str = ""
    task: str = ""


def write_status(folder: Path, status: JobStatus) -> None:
    """Write it, whole or not at all."""
    write_text(folder / FILE, json.dumps(dataclasses.asdict(status), indent=2))


def read_status(folder: Path) -> JobStatus | None:
    """What the job wrote last; None where it wrote nothing.

    Raises:
        ValueError: the file is no status.
        OSError: it cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            plain: Any = json.loads(file.read(LONGEST))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(plain, dict):
        raise ValueError("no mapping")
    times = [plain.get(name) for name in ("started", "ended")]
    if not all(value is None or isinstance(value, (int, float)) for value in times):
        raise ValueError("started and ended are numbers")
    state, doing, error, task = (str(plain.get(name) or "") for name in ("state", "doing", "error", "task"))
    overrides = plain.get("overrides")
    named = tuple(map(str, overrides if isinstance(overrides, list) else ()))
    return JobStatus(state, named, times[0], times[1], doing, error, task)
