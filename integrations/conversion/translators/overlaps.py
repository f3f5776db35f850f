"""Removes overlaps that SparseML allowed and paredown refuses: two rates or two masks at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.notes import Notes
from paredown.integrations.conversion.translators.training import LEARNING_RATE, WEIGHT_DECAY

__all__ = ["New", "without_overlaps"]

CONSTANT = "constant_sparsity"
MASKS = (
    "magnitude_pruning",
    "movement_pruning",
    "fisher_pruning",
    "acdc",
    "rigl",
    "sparsegpt",
    "wanda_pruning",
)


@dataclass
class New:
    """A new modifier, its window in numbers, and where it comes from."""

    fields: dict[str, Any]
    start: float
    end: float | None
    line: int
    title: str

    @staticmethod
    def of(fields: dict[str, Any], old: Fields) -> New:
        start, end = fields.get("start", 0), fields.get("end")
        if not isinstance(start, (int, float)):
            start = old.number("start_epoch", 0) or 0
        if not isinstance(end, (int, float)):
            end = None if end is None else old.number("end_epoch")
        return New(fields, start, end, old.old.line, old.old.title)

    @property
    def kind(self) -> str:
        return str(self.fields["type"])


def without_overlaps(modifiers: list[New], notes: Notes) -> list[New]:
    """The modifiers of which no two claim the same thing at the same time, as far as that is known without a model."""
    left = modifiers
    for kind in (LEARNING_RATE, WEIGHT_DECAY):
        left = _in_turn(left, kind, notes)
    left = [new for new in left if new.kind != CONSTANT or not _is_held_anyway(new, left, notes)]
    _hand_over(left, notes)
    return left


def _in_turn(modifiers: list[New], kind: str, notes: Notes) -> list[New]:
    """Each rate of a kind until the next one starts."""
    rates = sorted((new for new in modifiers if new.kind == kind), key=lambda new: new.start)
    dropped: list[New] = []
    for index, new in enumerate(rates):
        later = [other for other in rates[index + 1 :] if other.start > new.start]
        rivals = [other for other in rates if other is not new and other.start == new.start and other not in dropped]
        if rivals and (_is_constant(new) or not any(map(_is_constant, rivals))):
            notes.differs(new.line, new.title, f"left out: line {rivals[-1].line} sets another rate at the same time")
            dropped.append(new)
        elif later and (new.end is None or new.end > later[0].start):
            _cut(new, later[0], notes)
    return [new for new in modifiers if not any(new is other for other in dropped)]


def _is_constant(new: New) -> bool:
    return bool(new.fields["curve"] == "constant")


def _cut(new: New, later: New, notes: Notes) -> None:
    if not _is_constant(new):
        notes.differs(new.line, new.title, f"it ends where line {later.line} sets another rate, and is as much steeper")
    kind, start = new.fields.pop("type"), {"start": new.fields.pop("start")} if "start" in new.fields else {}
    new.fields.pop("end", None)
    rest = dict(new.fields)
    new.fields.clear()
    new.fields.update({"type": kind, **start, "end": later.fields["start"], **rest})
    new.end = later.start


def _is_held_anyway(new: New, modifiers: list[New], notes: Notes) -> bool:
    for other in modifiers:
        until = other.start if other.end is None and "final_sparsity" not in other.fields else other.end
        done = other.kind in ("sparsegpt", "wanda_pruning") or (until is not None and until <= new.start)
        if other.kind in MASKS and other.fields.get("hold", True) and done:
            reason = (
                f"left out: line {other.line} holds its zeros to the end of the run; other layers' zeros are not kept"
            )
            notes.differs(new.line, new.title, reason)
            return True
    return False


def _hand_over(modifiers: list[New], notes: Notes) -> None:
    """Masks that another modifier takes over are let go of at that moment."""
    masks = [new for new in modifiers if new.kind in (*MASKS, CONSTANT)]
    for new in masks:
        transfers = [other for other in masks if other is not new and new.end is not None and other.start >= new.end]
        same = [other for other in transfers if other.fields.get("targets") == new.fields.get("targets")]
        if same and new.fields.get("hold", True):
            new.fields["hold"] = False
            if new.end is not None and min(other.start for other in same) > new.end:
                notes.differs(new.line, new.title, f"its zeros are free from its end until line {same[0].line} starts")
