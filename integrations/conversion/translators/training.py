"""Translates modifiers of training itself: learning rates, weight decays, and frozen parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from paredown.framework.modifier.curves import curve_value
from paredown.integrations.conversion.fields import Fields
from paredown.integrations.conversion.translators.targets import parameters
from paredown.integrations.conversion.translators.times import window

__all__ = ["LEARNING_RATE", "TRAINING", "WEIGHT_DECAY"]

New = dict[str, Any] | list[dict[str, Any]] | None
LEARNING_RATE, WEIGHT_DECAY = "learning_rate", "weight_decay"
MOST_PIECES = 60
POINTS = 20
#: start, end (None: to the end of the run), first and last rate, curve
Piece = tuple[float, float | None, float, float, str | list[list[float]]]


def set_learning_rate(fields: Fields) -> New:
    return _constant(fields, LEARNING_RATE)


def set_weight_decay(fields: Fields) -> New:
    return _constant(fields, WEIGHT_DECAY)


def _constant(fields: Fields, kind: str) -> New:
    """One number of the optimizer, of the same name in the old modifier as the new modifier's type."""
    _one_group(fields)
    if fields.value(kind) is None:
        fields.drop(f"it names no {kind.replace('_', ' ')}")
        return None
    return {"type": kind, **window(fields), "final": fields.plain(kind), "curve": "constant"}


def learning_rate_function(fields: Fields) -> New:
    _one_group(fields)
    fields.expect("update_frequency", -1, reason="it moves at every step")
    name = fields.plain("lr_func", "linear")
    if name == "cyclic_linear":
        return _cyclic(fields)
    if name not in ("linear", "cosine"):
        raise fields.refused("lr_func", f"found {name!r}; one of linear, cosine and cyclic_linear")
    fields.expect("cycle_epochs", 1, 1.0, reason="only cyclic_linear has cycles")
    ends = {"initial": fields.plain("init_lr"), "final": fields.plain("final_lr")}
    return {"type": LEARNING_RATE, **window(fields), **ends, "curve": name}


def _cyclic(fields: Fields) -> New:
    start, end = max(fields.number("start_epoch", 0) or 0, 0), fields.number("end_epoch")
    cycle = fields.number("cycle_epochs", 1)
    first, last = fields.number("init_lr"), fields.number("final_lr")
    if end is None or not cycle or first is None or last is None or end <= start:
        return _unclear(fields, "its start, end, cycle and rates")
    places = [start + index * cycle for index in range(MOST_PIECES + 1) if start + index * cycle < end]
    ends = [*places[1:], end]
    return _chain(fields, [(at, to, first, last, "linear") for at, to in zip(places, ends, strict=True)])


@dataclass
class Old:
    """A scheduler of torch, in epochs: from when to when, the first rate, its arguments."""

    start: float
    end: float | None
    rate: float
    numbers: dict[str, Any]
    milestones: list[float]


def scheduler(fields: Fields) -> New:
    """`LearningRateModifier`: a class of torch.optim.lr_scheduler that counts epochs."""
    fields.expect("constant_logging", False, reason="logging follows every value")
    fields.expect("update_frequency", -1, reason="torch's schedulers here count epochs")
    name, rate, arguments = str(fields.plain("lr_class")), fields.number("init_lr"), fields.value("lr_kwargs")
    if rate is None or name not in _SCHEDULERS:
        return _unclear(fields, f"{name}: one of {', '.join(_SCHEDULERS)}, with its init_lr")
    start, end = max(fields.number("start_epoch", 0) or 0, 0), fields.number("end_epoch", -1)
    given = arguments.items if arguments else {}
    numbers = {key: fields.variables.computed(one, fields.old.renamed) for key, one in given.items()}
    milestones = given["milestones"].plain() if "milestones" in given else []
    try:
        old = Old(start, None if end == -1 else end, rate, numbers, milestones)
        return _chain(fields, list(_SCHEDULERS[name](old)))
    except (KeyError, TypeError, ValueError):
        return _unclear(fields, f"the lr_kwargs of {name}")


def _exponential(old: Old) -> Iterator[Piece]:
    yield from _steps(old, old.numbers["gamma"], [old.start + n for n in range(1, MOST_PIECES + 2)])


def _step(old: Old) -> Iterator[Piece]:
    places = [old.start + n * old.numbers["step_size"] for n in range(1, MOST_PIECES + 2)]
    yield from _steps(old, old.numbers["gamma"], places)


def _multi_step(old: Old) -> Iterator[Piece]:
    yield from _steps(old, old.numbers["gamma"], sorted(old.milestones))


def _steps(old: Old, gamma: float, places: list[float]) -> Iterator[Piece]:
    inside = [place for place in places if old.end is None or place < old.end]
    rate = old.rate
    for at, to in zip([old.start, *inside], [*inside, old.end], strict=True):
        yield at, to, rate, rate, "constant"
        rate *= gamma


def _cosine_restarts(old: Old) -> Iterator[Piece]:
    start, length = old.start, old.numbers["cycle_epochs"]
    factor, least = old.numbers.get("T_mult") or 1, old.numbers["lr_min"]
    for _ in range(MOST_PIECES + 1):
        yield start, start + length, old.rate, least, "cosine"
        start, length = start + length, length * factor


_SCHEDULERS: dict[str, Callable[[Old], Iterator[Piece]]] = {
    "ExponentialLR": _exponential,
    "StepLR": _step,
    "MultiStepLR": _multi_step,
    "CosineAnnealingWarmRestarts": _cosine_restarts,
}


def _chain(fields: Fields, pieces: list[Piece]) -> New:
    """Learning rates that follow each other; without an end they go on to the end of the run."""
    end = fields.number("end_epoch", -1)
    limit = fields.variables.epochs if end is None or end == -1 else end
    pieces = [_within(piece, limit) for piece in pieces if piece[0] < limit]
    if not pieces or len(pieces) > MOST_PIECES:
        return _unclear(fields, f"at most {MOST_PIECES} pieces that end within the run")
    fields.differs(f"{len(pieces)} modifiers that follow each other: no variable moves them")
    return [_piece(piece) for piece in pieces]


def _within(piece: Piece, epochs: float) -> Piece:
    """The part of a piece that comes before the end."""
    start, end, first, last, curve = piece
    if end is None or end <= epochs:
        return piece
    if curve == "constant":
        return start, None, first, last, curve
    places = [index / POINTS for index in range(POINTS + 1)]
    reached = [curve_value("cosine", place * (epochs - start) / (end - start), first, last) for place in places]
    points = [[_neat(place), _neat(rate)] for place, rate in zip(places, reached, strict=True)]
    return start, epochs, first, reached[-1], points


def _piece(piece: Piece) -> dict[str, Any]:
    start, end, first, last, curve = piece
    new: dict[str, Any] = {"type": LEARNING_RATE, "start": _neat(start)}
    new |= {} if end is None else {"end": _neat(end)}
    new |= {} if curve == "constant" else {"initial": _neat(first)}
    return {**new, "final": _neat(last), "curve": curve}


def _neat(number: float) -> float | int:
    rounded = float(f"{number:.10g}")
    return int(rounded) if rounded == int(rounded) else rounded


def _unclear(fields: Fields, wanted: str) -> New:
    fields.drop(f"it would need {wanted}")
    return None


def _one_group(fields: Fields) -> None:
    fields.expect("param_groups", reason="groups keep their ratio to the largest")
    fields.expect("constant_logging", False, reason="logging follows every value")


def trainable(fields: Fields) -> New:
    if fields.flag("trainable", True):
        fields.drop("parameters train unless a `freeze` includes them")
        return None
    fields.expect("params_strict", True, reason="a pattern that means nothing is always an error")
    targets = parameters([str(one.value) for one in fields.texts("params")])
    return {"type": "freeze", **({"targets": targets} if targets else {}), **window(fields)}


#: translators by the name of the old modifier
TRAINING: dict[str, Callable[[Fields], New]] = {
    "SetLearningRateModifier": set_learning_rate,
    "SetWeightDecayModifier": set_weight_decay,
    "LearningRateFunctionModifier": learning_rate_function,
    "LearningRateModifier": scheduler,
    "TrainableParamsModifier": trainable,
}
