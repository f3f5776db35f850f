"""Puts stages that were trained one after the other, each from epoch 0, into one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paredown.integrations.conversion.dialects import OldModifier, OldRecipe
from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.notes import Notes
from paredown.integrations.conversion.translators.run_length import run_length
from paredown.integrations.conversion.variables import Number, Variables

__all__ = ["Stage", "shifted", "stages_of"]

#: the fields of a new modifier that count from the beginning of the run, and the old ones that they come from
TIMES = {
    "start": "start_epoch",
    "end": "end_epoch",
    "freeze_observers": "disable_quantization_observer_epoch",
    "freeze_batch_norm": "freeze_bn_stats_epoch",
}


@dataclass(frozen=True)
class Stage:
    """When a stage begins in the whole run, and how long it is, in epochs; ``last`` where no other is trained later."""

    begins: Number
    length: Number
    last: bool


def stages_of(old: OldRecipe, variables: Variables) -> dict[str, Stage]:
    """The stages of a recipe that trains in at least one of several; nothing for others.

    Modifiers that start after the stages before them count from the beginning of the run already.
    """
    members: dict[str, list[OldModifier]] = {}
    for one in old.modifiers:
        if one.stage is not None and one.run_type is not None:
            members.setdefault(one.stage, []).append(one)
    trained = [name for name, own in members.items() if own[0].run_type == "train"]
    found: dict[str, Stage] = {}
    total: Number = 0
    for name, own in members.items() if trained and len(members) > 1 else ():
        length = _length(own, variables) if name in trained else 0
        absolute = name in trained and total > 0 and _first_start(own, variables) >= total
        found[name] = Stage(0 if absolute else total, length, name not in trained[:-1])
        total = max(total, length) if absolute else total + length
    return found


def shifted(new: Mapping[str, Any], fields: Fields, stage: Stage) -> dict[str, Any]:
    """A new modifier with its times counted from the beginning of the run."""
    times = {name: new[name] for name in TIMES if name in new}
    own = {name: fields.number(TIMES[name]) for name in times}
    if "end" not in new and not stage.last and (new["type"].endswith("distillation") or new["type"] == "freeze"):
        times["end"] = stage.length  # else it would go on through the later stages
    if stage.begins:
        fields.differs(f"its stage begins where those before it end, at epoch {stage.begins:g}")
        times = {name: _later(value, own.get(name), stage.begins) for name, value in {"start": 0, **times}.items()}
    return {
        "type": new["type"],
        **times,
        **{name: value for name, value in new.items() if name not in (*times, "type")},
    }


def _later(value: Any, amount: Number | None, offset: Number) -> Any:
    """A time moved by an offset, an interpolation by the amount that it gives; text stays, for the check to refuse."""
    number = value if isinstance(value, (int, float)) else amount
    return value if number is None else number + offset


def _length(members: list[OldModifier], variables: Variables) -> Number:
    found = run_length(members, variables)
    return found[1] if found else 0


def _first_start(members: list[OldModifier], variables: Variables) -> Number:
    starts = [Fields(one, variables, Notes()).number("start_epoch", 0) or 0 for one in members]
    return min(starts)
