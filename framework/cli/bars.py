"""Progress bars: of the trainings of a run, and of the jobs of a sweep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.framework.cli.console import console

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["Bars", "sweep_bar"]

#: seconds between two looks at the folders of jobs
PAUSE = 0.5


class Bars:
    """A progress bar for each training of a run."""

    def __init__(self, hidden: bool) -> None:
        from rich.progress import TimeRemainingColumn

        self.progress = _progress(TimeRemainingColumn(), hidden)
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def of(self, seed: int) -> Callable[[str, int, int, Mapping[str, float]], None]:
        """The function that advances the bars of one seed."""

        def advance(what: str, step: int, total: int, measured: Mapping[str, float]) -> None:
            name = f"seed {seed}: {what}"
            if name not in self.tasks:
                self.tasks[name] = self.progress.add_task(name, total=total)
            last = ", ".join(f"{metric} {value:.4g}" for metric, value in _named(measured).items())
            description = f"{name} ({last})" if last else name
            self.progress.update(self.tasks[name], completed=step, description=description)

        return advance


def _named(measured: Mapping[str, float]) -> Mapping[str, float]:
    """What was measured, under its names as far as they are known."""
    from paredown.framework.report.metrics import named

    return named((), [measured])[1][0]


@contextmanager
def sweep_bar(folders: Sequence[Path], hidden: bool) -> Iterator[None]:
    """Show, while a block runs, how many jobs of a sweep have ended, wherever they run."""
    from rich.progress import TimeElapsedColumn

    with _progress(TimeElapsedColumn(), hidden or not console().is_terminal) as bar:
        task, stop = bar.add_task("jobs", total=len(folders)), threading.Event()

        def watch() -> None:
            while not stop.wait(PAUSE):
                bar.update(task, **_ended(folders))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _ended(folders: Sequence[Path]) -> dict[str, Any]:
    from paredown.framework.experiments.sweep.job_status import read_state

    states = [read_state(folder) for folder in folders]
    failed = states.count("failed")
    ended = states.count("finished") + failed
    return {"completed": ended, "description": f"jobs ({failed} failed)" if failed else "jobs"}


def _progress(time: ProgressColumn, hidden: bool) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), time)
    return Progress(*columns, console=console(), disable=hidden)
