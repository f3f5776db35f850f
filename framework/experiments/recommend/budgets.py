"""Budgets: what a compressed model may cost, and what it has to reach, such as `bytes <= 0.1x`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from paredown.framework.errors import ArgumentError, did_you_mean
from paredown.framework.report.metrics import Metric

__all__ = ["COSTS", "Budget", "parse_budgets", "unmet"]

#: what a file costs, with the words for it; less is better
COSTS: Mapping[str, str] = {
    "bytes": "bytes of the file as it lies",
    "zipped": "bytes of the file in a zip archive",
    "latency": "milliseconds of CPU time of a run of the example inputs, in one thread",
    "macs": "multiply-accumulates",
    "parameters": "parameters",
}
FORM = re.compile(r"\s*(?P<name>\w+)\s*(?P<sign><=|>=)\s*(?P<amount>.+?)\s*")
NUMBER = r"\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+"
SHARE = re.compile(rf"(?P<number>{NUMBER})x", re.IGNORECASE)
PLAIN = re.compile(rf"-?(?:{NUMBER})", re.IGNORECASE)
BESIDE = re.compile(rf"dense(?:\s*(?P<sign>[+-])\s*(?P<number>{NUMBER}))?", re.IGNORECASE)
EXAMPLES = "bytes <= 0.1x, latency <= 2.5, accuracy >= dense - 0.01"


@dataclass(frozen=True)
class Budget:
    """A bound on one quantity.

    Attributes:
        text: as it was given.
        name: of a cost (`COSTS`) or of one of the task's metrics.
        most: whether it is the most that is allowed; else the least.
        factor, offset: the bound is factor x the dense model's value + offset.
    """

    text: str
    name: str
    most: bool
    factor: float
    offset: float

    @property
    def is_cost(self) -> bool:
        """Whether it is about what the file costs, not about what the model reaches."""
        return self.name in COSTS

    def bound(self, dense: float) -> float:
        """The bound, where the dense model's value is ``dense``."""
        return self.factor * dense + self.offset

    def excess(self, value: float, dense: float) -> float:
        """By how much a value misses the bound: of a cost the share of the bound, of a metric the difference; 0 where
        it is met, infinite where the value is not a number."""
        bound = self.bound(dense)
        over = value - bound if self.most else bound - value
        if math.isnan(over):
            return math.inf
        return max(0.0, over / bound if self.is_cost and bound > 0 else over)

    def shown(self, value: float, dense: float) -> str:
        """The value beside the bound, and whether it is met."""
        state = "met" if self.excess(value, dense) == 0 else "missed"
        ratio = f" ({value / dense:.3g}x)" if self.is_cost and dense else ""
        return f"{self.text}: {value:.5g}{ratio}, {state}"


def parse_budgets(texts: Iterable[str], metrics: Sequence[Metric]) -> tuple[Budget, ...]:
    """Budgets on costs and on the metrics of a task.

    Raises:
        ArgumentError: one cannot be read, cannot be met by any model, or there is none.

    >>> (one,) = parse_budgets(["accuracy >= dense - 0.01"], [Metric("accuracy", "max")])
    >>> one.bound(0.95)
    0.94
    """
    found = tuple(_parsed(text, {metric.name: metric for metric in metrics}) for text in texts)
    if not found:
        raise ArgumentError(f"give at least one budget, such as {EXAMPLES}", "budgets")
    return found


def unmet(budgets: Iterable[Budget], values: Mapping[str, float], dense: Mapping[str, float]) -> dict[str, float]:
    """By its text, the excess of each budget that is not met."""
    over = {one.text: one.excess(values.get(one.name, math.nan), dense[one.name]) for one in budgets}
    return {text: excess for text, excess in over.items() if excess > 0}


def _parsed(text: str, metrics: Mapping[str, Metric]) -> Budget:
    form = FORM.fullmatch(text) if isinstance(text, str) else None
    if form is None:
        raise _wrong(text, f"a budget is a name, <= or >=, and a number: {EXAMPLES}")
    name, most = form["name"], form["sign"] == "<="
    if name not in COSTS and name not in metrics:
        known = [*COSTS, *metrics]
        raise _wrong(text, f"there is no {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}")
    _check_sign(text, name, most, metrics)
    factor, offset = _amount(text, form["amount"], name in COSTS)
    return Budget(text.strip(), name, most, factor, offset)


def _check_sign(text: str, name: str, most: bool, metrics: Mapping[str, Metric]) -> None:
    wanted = -1 if name in COSTS else metrics[name].sign
    if wanted and (wanted < 0) != most:
        raise _wrong(text, f"of {name} {'less' if wanted < 0 else 'more'} is better: {'<=' if wanted < 0 else '>='}")


def _amount(text: str, amount: str, cost: bool) -> tuple[float, float]:
    """The factor and the offset of a bound."""
    if share := SHARE.fullmatch(amount):
        factor = float(share["number"])
        if cost and not 0 < factor < 1:
            raise _wrong(text, f"{amount} of the dense model's {text.split()[0]}: a share between 0x and 1x is wanted")
        return factor, 0.0
    if beside := BESIDE.fullmatch(amount):
        number = float(beside["number"] or 0)
        return 1.0, -number if beside["sign"] == "-" else number
    if PLAIN.fullmatch(amount):
        if cost and float(amount) <= 0:
            raise _wrong(text, "a number above 0 is wanted")
        return 0.0, float(amount)
    raise _wrong(text, f"{amount!r} is no amount; 0.1x is a share of the dense model's, dense - 0.01, or a number")


def _wrong(text: object, words: str) -> ArgumentError:
    return ArgumentError(f"the budget {str(text)[:80]!r}: {words}", "budgets")
