"""Progress bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paredown.framework.cli.console import console

__all__ = ["Bars"]


class Bars:
    """A progress bar for each training."""

    def __init__(self, hidden: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console(), disable=hidden)
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def of(self, seed: int) -> Callable[[str, int, int, float | None], None]:
        """What tells the bars of one seed."""

        def tell(what: str, step: int, total: int, accuracy: float | None) -> None:
            name = f"seed {seed}: {what}"
            if name not in self.tasks:
                self.tasks[name] = self.progress.add_task(name, total=total)
            told = name if accuracy is None else f"{name} (accuracy {accuracy:.4f})"
            self.progress.update(self.tasks[name], completed=step, description=told)

        return tell
