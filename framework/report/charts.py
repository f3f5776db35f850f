"""Charts as SVG: timelines, curves and bars, and the parts that they are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["bar_chart", "grid_line", "legend", "line_chart", "svg", "text", "timeline"]

WIDTH = 760
LEFT = 150
RIGHT = 20

Points = Sequence[tuple[float, float]]


def timeline(windows: Iterable[Mapping[str, Any]], stylesheet: str = "") -> str:
    """A bar for each modifier, over epochs; with a style sheet it is a picture that needs no page around it."""
    rows = [row for row in windows if "start" in row]
    last = max((row["end"] for row in rows), default=1) or 1
    per_epoch = rows[0]["steps_per_epoch"] if rows else 1
    marks = []
    for place, row in enumerate(rows):
        x, width = _along(row["start"], last), _along(row["end"], last) - _along(row["start"], last)
        top = 8 + 28 * place
        tip = f"{row['name']} ({row['type']}): epoch {row['start'] / per_epoch:g} to {row['end'] / per_epoch:g}"
        marks.append(text(LEFT - 10, top + 14, _short(row["name"]), "end"))
        marks.append(
            f"<rect class='bar s{place % 6}' x='{x:.1f}' y='{top}' width='{max(width, 3):.1f}' height='20' rx='3'>"
            f"<title>{escape(tip)}</title></rect>"
        )
    bottom = 8 + 28 * len(rows)
    return svg(bottom + 30, [*_ticks(0, last / per_epoch, bottom), *marks], stylesheet)


def line_chart(curves: Mapping[str, Points], over: str = "epochs") -> str:
    """Curves with a legend, over epochs or something else."""
    height = 220
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    right = max(xs, default=1) or 1
    low, high = min([0.0, *ys]), max(ys, default=0.0)
    span = (high - low) or 1
    bottom = height - 30
    marks = [*_ticks(0, right, bottom, over)]
    for share in (0, 0.5, 1):
        y = bottom - share * (bottom - 10)
        marks.append(grid_line((LEFT, y), (WIDTH - RIGHT, y)))
        marks.append(text(LEFT - 10, y + 4, f"{low + share * span:.3g}", "end"))
    for place, (name, points) in enumerate(curves.items()):
        spots = [(_along(x, right), bottom - (y - low) / span * (bottom - 10)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        marks.append(f"<polyline class='line s{place % 6}' points='{path}'/>")
        marks += [
            f"<circle class='dot s{place % 6}' cx='{x:.1f}' cy='{y:.1f}' r='2.5'>"
            f"<title>{escape(name)}: {value:.4g} at {at:g} {over}</title></circle>"
            for (x, y), (at, value) in zip(spots, points, strict=True)
        ]
    return svg(height, marks) + legend(list(curves))


def bar_chart(bars: Sequence[tuple[str, float, float]]) -> str:
    """A row for each (name, before, after), with the bar of after drawn over that of before."""
    most = max((before for _, before, _ in bars), default=1) or 1
    marks = []
    for place, (name, before, after) in enumerate(bars):
        top = 4 + 20 * place
        tip = f"<title>{escape(name)}: {after:,.0f} of {before:,.0f}</title>"
        marks.append(text(LEFT - 10, top + 12, _short(name), "end"))
        for kind, value in (("before", before), ("after", after)):
            width = max(_along(value, most) - LEFT, 1)
            marks.append(
                f"<rect class='{kind}' x='{LEFT}' y='{top}' width='{width:.1f}' height='14' rx='2'>{tip}</rect>"
            )
    return svg(8 + 20 * len(bars), marks) + legend(["before", "after"], classes=("before", "after"))


def _along(value: float, last: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(value / last, 1)


def _ticks(first: float, last: float, bottom: float, unit: str = "epochs") -> Iterable[str]:
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = first + share * (last - first)
        x = _along(value, last or 1)
        yield grid_line((x, 0), (x, bottom))
        yield text(x, bottom + 18, f"{value:g}" + (f" {unit}" if share == 1 else ""), "middle" if share < 1 else "end")


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"…{name[-21:]}"


def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    """Words at a point, which is their start, middle or end."""
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(words)}</text>"


def grid_line(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A thin line from one point (x, y) to another."""
    return f"<line class='grid' x1='{start[0]:.1f}' y1='{start[1]:.1f}' x2='{end[0]:.1f}' y2='{end[1]:.1f}'/>"


def legend(names: Sequence[str], classes: Sequence[str] | None = None) -> str:
    """The names of what is drawn, each with its colour: that of its CSS class, by default of its place."""
    kinds = classes or [f"s{place % 6}" for place in range(len(names))]
    items = "".join(f"<li><i class='{kind}'></i>{escape(name)}</li>" for kind, name in zip(kinds, names, strict=True))
    return f"<ul class='legend'>{items}</ul>"


def svg(height: float, marks: Iterable[str], stylesheet: str = "") -> str:
    """A drawing of the width `WIDTH`; with a style sheet it is a file of its own."""
    alone = ("xmlns='http://www.w3.org/2000/svg' ", f"<style>{stylesheet}</style>") if stylesheet else ("", "")
    return f"<svg {alone[0]}viewBox='0 0 {WIDTH} {height:.0f}' role='img'>{alone[1]}{''.join(marks)}</svg>"
