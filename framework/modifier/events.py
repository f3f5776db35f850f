"""The event log of a run: what happened when, as plain entries, passed on to listeners."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Event", "EventLog"]

Event = dict[str, Any]


class EventLog(list[Event]):
    """The events of a run, oldest first: ``{"step": 40, "epoch": 2.0, "modifier": "prune", "event": "start", ...}``.

    ``listeners`` are called with each new event (trackers, progress bars).
    """

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[Event], None]] = []

    def restore(self, events: Iterable[Event]) -> None:
        """Replace the entries by those of a checkpoint; no listener is called."""
        self[:] = [dict(event) for event in events]

    def record(self, step: int, epoch: float, modifier: str, event: str, **details: Any) -> None:
        """Add an event and pass it on to the listeners."""
        entry = {"step": step, "epoch": epoch, "modifier": modifier, "event": event, **details}
        self.append(entry)
        for listener in self.listeners:
            listener(entry)
