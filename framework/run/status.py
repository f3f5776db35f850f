"""A run in words: how far it has come, and what each modifier has reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from paredown.framework.modifier.run import Run
from paredown.framework.recipe import Recipe
from paredown.framework.run.schedule import Schedule

__all__ = ["status_of"]

#: of an event, what does not tell what was reached
PLACE = ("step", "epoch", "modifier", "event")


def status_of(recipe: Recipe, state: str, run: Run | None, schedule: Schedule | None) -> str:
    """The state of a run, the step and epoch, and a line for each modifier: its phase, its window, its last numbers.

    Args:
        recipe: what runs.
        state: of its manager.
        run, schedule: None before the first run.
    """
    lines = [f"{recipe.name}: {state}{'' if run is None else _place(run)}"]
    for name, modifier in recipe.modifiers.items():
        phase = "" if schedule is None else f": {schedule.phases[name].value}"
        window = None if schedule is None else schedule.windows.get(name)
        steps = "" if window is None else f", steps {window.start} to {window.end}"
        reached = "" if run is None else "".join(_reached(event for event in run.events if event["modifier"] == name))
        lines.append(f"  {name} ({modifier.type}){phase}{steps}{reached}")
    return "\n".join(lines)


def _place(run: Run) -> str:
    if run.clock is None:
        return ""
    whole = "" if run.clock.run_steps is None else f" of {run.clock.run_steps}"
    skipped = f", {run.clock.skipped} steps skipped" if run.clock.skipped else ""
    return f", step {run.clock.steps}{whole}, epoch {run.epoch:.4g}{skipped}"


def _reached(events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The newest of each number that was recorded."""
    newest: dict[str, float] = {}
    for event in events:
        numbers = {name: value for name, value in event.items() if isinstance(value, float) and name not in PLACE}
        newest.update(numbers)
    yield from (f", {name} {value:.4g}" for name, value in newest.items())
