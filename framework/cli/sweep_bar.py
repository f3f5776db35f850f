"""A bar that shows how many jobs of a sweep are through, wherever they run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from paredown.framework.cli.console import console
from paredown.framework.experiments.sweep.job_status import read_status

__all__ = ["sweep_bar"]

PAUSE = 0.5


@contextmanager
def sweep_bar(folders: Sequence[Path], hidden: bool) -> Iterator[None]:
    """Show the bar while the block runs."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(), disable=hidden or not console().is_terminal) as bar:
        task, stop = bar.add_task("jobs", total=len(folders)), threading.Event()

        def watch() -> None:
            while not stop.wait(PAUSE):
                states = [_state(folder) for folder in folders]
                done, failed = sum(state in ("finished", "failed") for state in states), states.count("failed")
                bar.update(task, completed=done, description=f"jobs ({failed} failed)" if failed else "jobs")

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _state(folder: Path) -> str:
    try:
        status = read_status(folder)
    except (OSError, ValueError):
        return ""
    return "" if status is None else status.state
