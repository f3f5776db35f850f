"""Compares the numbers that a recipe records with those of a new run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paredown.framework.errors import ParedownError
from paredown.framework.report.spread import Spread

__all__ = ["ALLOWED", "Compared", "check_recorded", "compared", "values_in"]

#: what two runs of the same seeds may differ by on another machine, where the recorded values are closer together; of
#: a value above 1 the share of it
LEAST_SPREAD = 0.002
#: share by which a file's size may differ
SIZE = 0.01
#: the same in words
ALLOWED = (
    "a metric may differ by two standard deviations of its seeds, recorded or found, whichever are the smaller, and by "
    f"{LEAST_SPREAD:g} at least (of values above 1: {LEAST_SPREAD:.1%}); bytes by {SIZE:.0%}"
)


@dataclass(frozen=True)
class Compared:
    """One number that was recorded, and the same one now.

    Attributes:
        name: the model and the quantity.
        recorded, found: the values; of metrics, means over the seeds.
        allowed: how far apart they may be.
    """

    name: str
    recorded: float
    found: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether they are no further apart than allowed."""
        return abs(self.found - self.recorded) <= self.allowed


def check_recorded(recorded: Mapping[str, Any]) -> None:
    """Raise an error for an entry of `results` without numbers where they belong.

    Raises:
        ParedownError: the message has the place of the wrong value.

    >>> check_recorded({"dense": {"accuracies": "high"}})
    Traceback (most recent call last):
        ...
    paredown.framework.errors.ParedownError: results: dense.accuracies is 'high'; a list of numbers is wanted
    """
    for model in ("dense", "compressed"):
        of = recorded.get(model)
        if of is not None and not isinstance(of, Mapping):
            raise ParedownError(f"results: {model} is {of!r}; accuracies, metrics and bytes are wanted")
        accuracies, metrics, size = ((of or {}).get(name) for name in ("accuracies", "metrics", "bytes"))
        if accuracies is not None and not _are_numbers(accuracies):
            raise ParedownError(f"results: {model}.accuracies is {accuracies!r}; a list of numbers is wanted")
        if metrics is not None and not (isinstance(metrics, Mapping) and all(map(_are_numbers, metrics.values()))):
            raise ParedownError(f"results: {model}.metrics is {metrics!r}; a list of numbers for each is wanted")
        if size is not None and not _is_number(size):
            raise ParedownError(f"results: {model}.bytes is {size!r}; a number is wanted")
    seeds = recorded.get("run", {}).get("seeds", ())
    try:
        list(map(int, seeds))
    except (TypeError, ValueError):
        raise ParedownError(f"results: run.seeds is {seeds!r}; a list of integers is wanted") from None


def compared(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[Compared]:
    """The numbers of two entries of `results`, side by side.

    A metric may move by two standard deviations of the seeds, recorded or found, whichever are the smaller: a
    number that was changed by hand does not make room for itself. Bytes may move by one percent.

    >>> old = {"dense": {"accuracies": [0.90, 0.92], "bytes": 100}, "compressed": {"accuracies": [0.8], "bytes": 50}}
    >>> new = {"dense": {"accuracies": [0.91, 0.92], "bytes": 100}, "compressed": {"accuracies": [0.7], "bytes": 50}}
    >>> [(one.name, one.holds) for one in compared(old, new)]  # doctest: +NORMALIZE_WHITESPACE
    [('dense accuracy', True), ('dense bytes', True), ('compressed accuracy', False), ('compressed bytes', True)]
    """
    return [each for model in ("dense", "compressed") for each in _of(model, recorded.get(model), found[model])]


def values_in(recorded: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """The values of each metric of a model in an entry of `results`, one a seed; ``accuracies`` are one of them.

    >>> values_in({"accuracies": [0.9], "metrics": {"loss": [0.3]}})
    {'accuracy': [0.9], 'loss': [0.3]}
    """
    accuracies = {"accuracy": recorded["accuracies"]} if recorded.get("accuracies") else {}
    return {**accuracies, **{name: values for name, values in (recorded.get("metrics") or {}).items() if values}}


def _of(model: str, recorded: Any, found: Mapping[str, Any]) -> Iterator[Compared]:
    if not isinstance(recorded, Mapping):
        return
    now = values_in(found)
    for name, values in values_in(recorded).items():
        ours, theirs = Spread.of(values), Spread.of(now.get(name) or [math.nan])
        allowed = max(2 * min(ours.deviation, theirs.deviation), LEAST_SPREAD * max(1, abs(ours.mean)))
        yield Compared(f"{model} {name}", ours.mean, theirs.mean, allowed)
    if recorded.get("bytes") and found.get("bytes"):
        yield Compared(f"{model} bytes", recorded["bytes"], found["bytes"], SIZE * recorded["bytes"])


def _are_numbers(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
