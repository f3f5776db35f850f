"""What the plan remarks on the order of a recipe's windows: it works, and costs accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from paredown.framework.modifier.base import Modifier
from paredown.framework.run.schedule import Schedule

__all__ = ["order_remarks"]


def order_remarks(schedule: Schedule, modifier: Modifier) -> Sequence[str]:
    """Who still changes the parameters that a modifier treats, when it would rather begin after that."""
    window = schedule.windows.get(modifier.name)
    if window is None or not modifier.follows:
        return ()
    late = [each for each in schedule.modifiers if each.claims & modifier.follows and not each.only_keeps]
    return [
        f"it begins at step {window.start}, and {each.name} ({each.type}) changes the same weights until step "
        f"{schedule.windows[each.name].end}: what it fits to them then is out of date; accuracy is usually better "
        f"where it starts after (start: ${{modifiers.{each.name}.end}})"
        for each in late
        if schedule.windows[each.name].end > window.start and _shared(schedule, modifier, each)
    ]


def _shared(schedule: Schedule, one: Modifier, other: Modifier) -> bool:
    ids = {id(parameter) for parameter in one.claimed(schedule.of(one))}
    return any(id(parameter) in ids for parameter in other.claimed(schedule.of(other)))
