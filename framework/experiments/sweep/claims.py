"""Claims on job folders: a lock that a running job holds, and that the system releases when its process dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from paredown.framework.experiments.sweep.job_status import FILE

__all__ = ["claim", "is_claimed"]

LOCK = ".claim"
#: a job of a machine without locks counts as running when it wrote its status within so many seconds
RECENT = 600.0
#: seconds that a claim waits for a process that only tests whether the folder is claimed
PATIENCE = 1.0


@contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Claim a job's folder for the length of a block; yields False where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        until = time.monotonic() + PATIENCE
        while (locked := _lock(file)) is False and time.monotonic() < until:
            time.sleep(0.02)
        yield locked is not False


def is_claimed(folder: Path) -> bool:
    """Whether a running process holds the folder."""
    try:
        with (folder / LOCK).open("r+") as file:
            locked = _lock(file)
    except FileNotFoundError:
        return False
    except OSError:
        locked = None
    return _is_recent(folder) if locked is None else not locked


def _lock(file: IO[str]) -> bool | None:
    """Try to lock a file until it is closed; returns whether that worked, and None where the system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_recent(folder: Path) -> bool:
    try:
        return time.time() - (folder / FILE).stat().st_mtime < RECENT
    except OSError:
        return False
