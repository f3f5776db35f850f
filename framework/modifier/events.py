"""The event log of a run: what happened when, as plain entries, passed on to listeners."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["EventLog", "JsonLines"]

Event = dict[str, Any]


class EventLog(list[Event]):
    """The events of a run, oldest first: ``{"step": 40, "epoch": 2.0, "modifier": "prune", "event": "start", ...}``.

    ``listeners`` are called with each new event (trackers, progress bars, `JsonLines`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[Event], None]] = []

    def record(self, step: int, epoch: float, modifier: str, event: str, **details: Any) -> None:
        """Add an event and pass it on to the listeners."""
        entry = {"step": step, "epoch": epoch, "modifier": modifier, "event": event, **details}
        self.append(entry)
        for listener in self.listeners:
            listener(entry)


class JsonLines:
    """A listener that appends each event to a file, a JSON object a line."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __call__(self, event: Event) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
