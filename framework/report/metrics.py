"""What an evaluation measures: metrics with a name, a unit and a direction, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from paredown.framework.errors import ParedownError
from paredown.framework.report.spread import Spread

__all__ = ["ACCURACY", "UNNAMED", "Measured", "Metric", "declared", "measure", "named"]

#: of one model: the values of its metrics by name; nan where it diverged
Measured = Mapping[str, float]

#: of a number that came without a name
UNNAMED = "metric"
GOALS = ("max", "min")
EXAMPLE = '{"accuracy": "max", "perplexity": {"goal": "min", "unit": "", "scale": 1}}'


@dataclass(frozen=True)
class Metric:
    """A quantity by which models are compared.

    Attributes:
        name: its own.
        goal: ``max`` or ``min``; "" where it is not known which is better.
        unit: behind the numbers; a difference of ``%`` is one of points.
        scale: what a value is multiplied by where it is shown: 100 makes percent of a share.
    """

    name: str
    goal: str = ""
    unit: str = ""
    scale: float = 1.0

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is; 0 where that is not known."""
        return {"max": 1, "min": -1}.get(self.goal, 0)

    @property
    def title(self) -> str:
        """The name, with the unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def shown(self, values: Sequence[float]) -> str:
        """The mean of values, one a seed, with their spread.

        >>> Metric("perplexity").shown([44.9]), Metric("accuracy", "max", "%", 100).shown([0.935])
        ('44.9', '93.5 %')
        """
        return f"{self.plain(values)}{f' {self.unit}' if self.unit else ''}"

    def plain(self, values: Sequence[float]) -> str:
        """The same without the unit."""
        spread = Spread.of([self.scale * value for value in values])
        form = ".4f" if abs(spread.mean) < 10 and self.scale == 1 else ".5g"
        more = f" ± {spread.deviation:{form}}" if spread.count > 1 else ""
        return f"{spread.mean:{form}}{more}"

    def difference(self, before: Sequence[float], after: Sequence[float]) -> str:
        """By how much the mean moved, in the metric's unit; a share of which more is better moves by points.

        >>> Metric("accuracy", "max").difference([0.935], [0.925])
        '-1.00 points'
        >>> Metric("perplexity", "min").difference([44.9], [58.8])
        '+13.9, worse'
        """
        moved = Spread.of(after).mean - Spread.of(before).mean
        text = f"{self.scale * moved:+.4g}{f' {self.unit}' if self.unit else ''}"
        if self._by_points(before, after):
            text = f"{(self.scale if self.unit else 100) * moved:+.2f} points"
        return ", ".join([text, *self._verdict(moved)])

    def change(self, before: Sequence[float], after: Sequence[float]) -> str:
        """The same in a sentence; of what does not move by points, both values.

        >>> Metric("accuracy", "max").change([0.935], [0.925]), Metric("perplexity").change([44.9], [58.8])
        ('accuracy -1.00 points', 'perplexity 44.9 -> 58.8')
        """
        if not before:
            return f"{self.name} {self.shown(after)}"
        if self._by_points(before, after):
            return f"{self.name} {self.difference(before, after)}"
        verdict = "".join(f" ({word})" for word in self._verdict(Spread.of(after).mean - Spread.of(before).mean))
        return f"{self.name} {self.shown(before)} -> {self.shown(after)}{verdict}"

    def _by_points(self, before: Sequence[float], after: Sequence[float]) -> bool:
        share = not self.unit and self.scale == 1 and all(0 <= value <= 1 for value in (*before, *after))
        return self.unit == "%" or (self.sign > 0 and share)

    def _verdict(self, moved: float) -> list[str]:
        """Whether a metric of which less is better became better or worse; of others the sign says it."""
        words = {True: "worse", False: "better"}
        return [words[moved > 0]] if self.sign < 0 and moved else []


ACCURACY = Metric("accuracy", "max")


def declared(metrics: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Metrics from what a task declares: by name a goal, or a mapping with ``goal`` and perhaps ``unit`` and ``scale``.

    Raises:
        ParedownError: something else; it says what is wanted.
    """
    if not isinstance(metrics, Mapping) or not metrics:
        raise ParedownError(f"metrics is {str(metrics)[:99]!r}; a mapping from names is wanted, such as {EXAMPLE}")
    return tuple(_declared(name, given) for name, given in metrics.items())


def _declared(name: Any, given: Any) -> Metric:
    fields = {"goal": given} if isinstance(given, str) else given
    if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
        reserved = ", ".join(sorted(RESERVED))
        raise ParedownError(f"metrics: {name!r} is no name; a word of letters, digits and _, and none of {reserved}")
    if not isinstance(fields, Mapping) or fields.get("goal") not in GOALS or set(fields) - {"goal", "unit", "scale"}:
        raise ParedownError(f"metrics: {name} is {str(given)[:99]!r}; 'max', 'min', or a mapping, such as in {EXAMPLE}")
    scale = fields.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale) or scale <= 0:
        raise ParedownError(f"metrics: the scale of {name} is {scale!r}; a number above 0 is wanted")
    return Metric(name, fields["goal"], str(fields.get("unit", "")), float(scale))


#: words that mean something else in conditions and tables
RESERVED = frozenset({"bytes", "macs", "latency", "nonzeros", "sparsity", "parameters", "dense", "seconds", "and"})


def measure(evaluate: Callable[[nn.Module], Any], model: nn.Module) -> dict[str, float]:
    """The values that an evaluation gives for a model, by name; a number alone is `UNNAMED`.

    Raises:
        ParedownError: what is given is no function, or it returns neither a number nor a mapping of numbers.
    """
    if not callable(evaluate):
        raise ParedownError(
            f"evaluate is {str(evaluate)[:99]!r}; a function of a model is wanted, that returns a number"
        )
    found = evaluate(model)
    if isinstance(found, Mapping) and found:
        return {str(name): _number(value, f"evaluate returned {name}: ") for name, value in found.items()}
    return {UNNAMED: _number(found, "evaluate returned ")}


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ParedownError(
            f"{where}{str(value)[:99]!r}; a number is wanted, or a mapping such as {{'accuracy': correct / total}}"
        ) from None


def named(metrics: Sequence[Metric], models: Iterable[Measured]) -> tuple[tuple[Metric, ...], list[Measured]]:
    """The metrics of models that were evaluated alike, and their values under the metrics' names.

    Args:
        metrics: those that are declared; further ones follow, of which it is not known what is better.
        models: what `measure` gave for each. A number alone is the one metric that is declared; without any it is the
            accuracy, where all values are shares, and else has no name.
    """
    models = list(models)
    values = [one[UNNAMED] for one in models if UNNAMED in one]
    only = metrics[0] if len(metrics) == 1 else ACCURACY if all(0 <= v <= 1 or math.isnan(v) for v in values) else None
    if only is not None and values:
        models = [{only.name if name == UNNAMED else name: v for name, v in one.items()} for one in models]
        metrics = metrics or (only,)
    known = {metric.name: metric for metric in metrics}
    found = dict.fromkeys(name for one in models for name in one)
    return (*metrics, *(Metric(name) for name in found if name not in known)), models
