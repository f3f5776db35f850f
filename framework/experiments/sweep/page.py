"""A sweep as a self-contained HTML page: its Pareto fronts, its table, its failures; no script, no network."""

from __future__ import annotations

from html import escape

from paredown.framework.experiments.sweep.collecting import Sweep
from paredown.framework.experiments.sweep.row import COSTS, Row
from paredown.framework.experiments.sweep.scatter import scatter
from paredown.framework.experiments.sweep.table import cells, head, state_of, summary
from paredown.framework.report.page import page, section, table

__all__ = ["html_page"]

WORDS = {"bytes": "bytes on disk", "macs": "multiply-accumulates", "latency": "ms a forward (median)"}
#: the columns of the table whose words wrap
WORDY = ("overrides", "Pareto", "state")
PROBLEMS = ("overrides", "state", "folder")


def html_page(sweep: Sweep, title: str) -> str:
    """The page of a sweep as HTML text."""
    columns = head(sweep)
    others = [row for row in sweep.rows if row.state != "finished"]
    sections = [
        section(f"{_capital(sweep.deciding.name)} against size and speed", _fronts(sweep)),
        section("Jobs", table(columns, cells(sweep), wrapped=[columns.index(name) for name in WORDY])),
        *([section("Not finished", table(PROBLEMS, _problems(others), wrapped=range(3)))] if others else []),
    ]
    return page(title, "".join(sections), summary(sweep))


def _fronts(sweep: Sweep) -> str:
    """The charts of all costs that were measured, with a radio button for each that shows it."""
    costs = [cost for cost in COSTS if sweep.measured(cost)]
    if not costs:
        return f"<p class='note'>No finished job has {escape(sweep.deciding.name)} and a cost yet.</p>"
    buttons = "".join(
        f"<input class='choice' type='radio' name='by' id='by-{place}'{' checked' if place == 0 else ''}>"
        for place in range(len(costs))
    )
    labels = "".join(f"<label for='by-{place}'>{escape(WORDS[cost])}</label>" for place, cost in enumerate(costs))
    charts = "".join(
        f"<div class='front front-{place}'>{_chart(sweep, cost)}</div>" for place, cost in enumerate(costs)
    )
    return f"{buttons}<div class='choices'>{labels}</div>{charts}"


def _chart(sweep: Sweep, cost: str) -> str:
    return scatter(sweep.measured(cost), sweep.fronts[cost], sweep.deciding, cost, WORDS[cost])


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _problems(rows: list[Row]) -> list[tuple[str, ...]]:
    return [(row.label, state_of(row), str(row.folder)) for row in rows]
