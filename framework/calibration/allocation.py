"""Allocation: one option for each layer, so that all fit a budget with the least loss in sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Option", "allocate"]


@dataclass(frozen=True)
class Option:
    """One way to treat a layer: the setting, what it costs, and the error that it brings."""

    setting: Any
    cost: float
    error: float


def allocate(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, Option]:
    """Choose an option for each layer with a total cost of at most ``budget`` and little error in sum.

    Greedy along the lower convex hulls of error over cost, which is the Lagrangian relaxation's solution: from the
    dearest options on, the step that saves most cost for its error is taken until the budget is met. What the last
    step saved beyond that is spent again, on any options that take error off. Errors are taken to add up.

    Args:
        options: by layer; each layer has at least one.
        budget: in the unit of the costs.

    Raises:
        ValueError: the cheapest options together cost more; the message has both numbers.
    """
    hulls = {name: _hull(each) for name, each in options.items()}
    places = dict.fromkeys(hulls, 0)
    total = sum(hull[0].cost for hull in hulls.values())
    while total > budget:
        name = min(
            (name for name, hull in hulls.items() if places[name] + 1 < len(hull)),
            key=lambda name: _price(hulls[name], places[name]),
            default=None,
        )
        if name is None:
            raise ValueError(f"the least that these layers can cost is {total:g}, and the budget is {budget:g}")
        total -= hulls[name][places[name]].cost - hulls[name][places[name] + 1].cost
        places[name] += 1
    return _spent(options, {name: hull[places[name]] for name, hull in hulls.items()}, budget)


def _spent(options: Mapping[str, Sequence[Option]], chosen: dict[str, Option], budget: float) -> dict[str, Option]:
    """The choice after the options were taken that fit the budget too and have less error, the most useful first."""
    while True:
        room = budget - sum(option.cost for option in chosen.values())
        better = [
            (chosen[name].error - option.error, name, option)
            for name, each in options.items()
            for option in each
            if option.error < chosen[name].error and option.cost - chosen[name].cost <= room
        ]
        if not better:
            return chosen
        _, name, option = max(better, key=lambda each: each[0])
        chosen = {**chosen, name: option}


def _price(hull: Sequence[Option], place: int) -> float:
    """Error for each unit of cost that the next step saves."""
    dear, cheap = hull[place], hull[place + 1]
    return (cheap.error - dear.error) / (dear.cost - cheap.cost)


def _hull(options: Sequence[Option]) -> list[Option]:
    """From the best option to the cheapest, those on the lower convex hull of error over cost."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.error, option.cost)):
        if hull and option.cost >= hull[-1].cost:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(dear: Option, cheap: Option) -> float:
    return (cheap.error - dear.error) / (dear.cost - cheap.cost)
