"""The chart of a metric against a cost, with the Pareto front, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from paredown.framework.experiments.sweep.row import Row
from paredown.framework.report.charts import WIDTH, grid_line, legend, svg, text
from paredown.framework.report.metrics import Metric

__all__ = ["scatter"]

HEIGHT = 380
#: a range whose ends are further apart is drawn by logarithms
FAR = 4
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 14, 330


@dataclass(frozen=True)
class _Scale:
    """From a range of values to a range of the picture, by their logarithms where they lie far apart."""

    low: float
    high: float
    first: float
    last: float

    @property
    def is_logarithmic(self) -> bool:
        """Whether the highest value is several times the lowest."""
        return self.low > 0 and self.high > FAR * self.low

    def __call__(self, value: float) -> float:
        whole, part = self.high - self.low, value - self.low
        if self.is_logarithmic:
            whole, part = math.log(self.high / self.low), math.log(value / self.low)
        return self.first + part / whole * (self.last - self.first)

    def at(self, share: float) -> tuple[float, float]:
        """The position at a share of the way from first to last, and the value there."""
        value = self.low + share * (self.high - self.low)
        if self.is_logarithmic:
            value = self.low * (self.high / self.low) ** share
        return self.first + share * (self.last - self.first), value


def scatter(rows: Sequence[Row], front: Sequence[Row], metric: Metric, cost: str, words: str) -> str:
    """Draw the chart of one cost.

    Args:
        rows: finished jobs with the metric and this cost.
        front: those of them on the Pareto front, by rising cost.
        metric: what is weighed against the cost.
        cost: the quantity.
        words: its name on the axis.
    """
    dense = _dense(rows, metric.name, cost)
    shown = [(row.compressed[cost], row.compressed[metric.name]) for row in rows] + ([dense] if dense else [])
    x, y = (
        _scale([at for at, _ in shown], LEFT + 14, WIDTH - RIGHT - 14),
        _scale([at for _, at in shown], BOTTOM - 14, TOP + 14),
    )
    path = " ".join(f"{x(row.compressed[cost]):.1f},{y(row.compressed[metric.name]):.1f}" for row in front)
    marks = [*_grid(x, y, metric, words), f"<polyline class='line s0' points='{path}'/>"]
    marks += [_spot(row, x, y, metric, cost, words, any(row is other for other in front)) for row in rows]
    if dense:
        marks.append(_diamond(x(dense[0]), y(dense[1]), f"dense: {_values(*dense, metric, words)}"))
    names = legend(("Pareto front", "beaten by another", "dense"), classes=("s0", "beaten", "s1"))
    return svg(HEIGHT, marks) + names


def _dense(rows: Sequence[Row], metric: str, cost: str) -> tuple[float, float] | None:
    """The dense models' mean cost and metric."""
    found = [(row.dense[cost], row.dense[metric]) for row in rows if {cost, metric} <= set(row.dense)]
    return (sum(at for at, _ in found) / len(found), sum(at for _, at in found) / len(found)) if found else None


def _scale(values: Sequence[float], first: float, last: float) -> _Scale:
    low, high = min(values), max(values)
    if high == low:
        low, high = low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9
    return _Scale(low, high, first, last)


def _grid(x: _Scale, y: _Scale, metric: Metric, words: str) -> list[str]:
    marks = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        at, value = x.at(share)
        marks.append(grid_line((at, TOP), (at, BOTTOM)))
        marks.append(text(at, BOTTOM + 18, f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"))
        at, value = y.at(share)
        marks.append(grid_line((LEFT, at), (WIDTH - RIGHT, at)))
        marks.append(text(LEFT - 8, at + 4, metric.plain([value]), "end"))
    words += ", on a logarithmic scale" if x.is_logarithmic else ""
    return [*marks, text((LEFT + WIDTH - RIGHT) / 2, BOTTOM + 40, words), text(LEFT - 8, TOP, metric.title, "end")]


def _spot(row: Row, x: _Scale, y: _Scale, metric: Metric, cost: str, words: str, is_best: bool) -> str:
    at = row.compressed[cost], row.compressed[metric.name]
    tip = f"{row.label}\n{_values(*at, metric, words)}\n{row.folder}"
    return (
        f"<circle class='spot {'s0' if is_best else 'beaten'}' cx='{x(at[0]):.1f}' cy='{y(at[1]):.1f}' "
        f"r='{6 if is_best else 5}'><title>{escape(tip)}</title></circle>"
    )


def _diamond(x: float, y: float, tip: str) -> str:
    points = f"{x:.1f},{y - 8:.1f} {x + 8:.1f},{y:.1f} {x:.1f},{y + 8:.1f} {x - 8:.1f},{y:.1f}"
    return f"<polygon class='spot s1' points='{points}'><title>{escape(tip)}</title></polygon>"


def _values(cost: float, value: float, metric: Metric, words: str) -> str:
    return f"{metric.name} {metric.shown([value])}, {format(cost, ',.4g' if cost < 1e4 else ',.0f')} {words}"
