"""Checks the times of modifiers against each other and against the length of the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

from paredown.framework.errors import Mistake
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.time import Time
from paredown.framework.recipe.tree.nodes import Node
from paredown.framework.recipe.tree.positions import Path, from_where

__all__ = ["schedule_mistakes"]


def schedule_mistakes(
    modifiers: Iterable[Modifier], root: Node, run_epochs: float | None, *, check_run: bool = True
) -> Iterator[Mistake]:
    """End before start, times beyond the run, times without a run.

    Args:
        modifiers: valid ones.
        root: the resolved recipe, for places.
        run_epochs: ``run.epochs``; None where it is not given.
        check_run: False where ``run.epochs`` is wrong itself.
    """
    without_run: list[Mistake] = []
    for modifier in modifiers:
        times = dict(_times(modifier))
        yield from _order_mistakes(modifier, times, root, run_epochs)
        yield from _grid_mistakes(modifier, times, root)
        for field, time in times.items():
            if run_epochs is not None:
                yield from _beyond(_at(modifier, field), time, root, run_epochs)
            elif check_run and field in modifier.model_fields_set:
                without_run.append(_without_run(_at(modifier, field), root))
    yield from without_run[:1]


def _times(modifier: Modifier) -> Iterator[tuple[str, Time]]:
    """All times of a modifier, by field."""
    later: Mapping[str, Time | None] = modifier.later_times()
    for field, time in {
        "start": modifier.start,
        "end": modifier.end,
        "every": modifier.update_interval,
        **later,
    }.items():
        if isinstance(time, Time):
            yield field, time


def _order_mistakes(
    modifier: Modifier, times: Mapping[str, Time], root: Node, run_epochs: float | None
) -> Iterator[Mistake]:
    start, end = times["start"], times.get("end")
    if end is not None and _is_before(end, start, run_epochs):
        field = "end" if "end" in modifier.model_fields_set else "start"
        yield _mistake(root, _at(modifier, field), f"end ({end}) lies before start ({start})")


def _grid_mistakes(modifier: Modifier, times: Mapping[str, Time], root: Node) -> Iterator[Mistake]:
    if "every" in times and times["every"].value == 0:
        yield _mistake(root, _at(modifier, "every"), "found 0; the distance between updates is more than 0")


def _is_before(left: Time, right: Time, run_epochs: float | None) -> bool:
    if left.unit == right.unit:
        return left.value < right.value
    first, second = left.in_epochs(run_epochs), right.in_epochs(run_epochs)
    return first is not None and second is not None and first < second


def _beyond(path: Path, time: Time, root: Node, run_epochs: float) -> Iterator[Mistake]:
    epochs = time.in_epochs(run_epochs)
    if epochs is not None and epochs > Fraction(str(run_epochs)):
        yield _mistake(root, path, f"found {time}; the run ends after {run_epochs:g} epochs (run.epochs)")


def _without_run(path: Path, root: Node) -> Mistake:
    return _mistake(root, path, "a time needs run.epochs, the length of the training run: run: {epochs: ...}")


def _mistake(root: Node, path: Path, message: str) -> Mistake:
    place, origin = root.place(path)
    return place.mistake(message + from_where(origin), path)


def _at(modifier: Modifier, field: str) -> Path:
    return ("modifiers", modifier.name, *field.split("."))
