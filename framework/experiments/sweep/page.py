"""A sweep as a self-contained HTML page: its Pareto fronts, its table, its failures; no script, no network."""

from __future__ import annotations

from html import escape

from paredown.framework.experiments.sweep.collecting import Sweep
from paredown.framework.experiments.sweep.row import COSTS, Row
from paredown.framework.experiments.sweep.scatter import scatter
from paredown.framework.experiments.sweep.table import HEAD, cells, state_of, summary
from paredown.framework.report.page import page, section

__all__ = ["html_page"]

WORDS = {"bytes": "bytes on disk", "macs": "multiply-accumulates", "latency": "ms a forward (median)"}
#: the columns of the table whose words wrap
WORDY = (1, 8, 9)


def html_page(sweep: Sweep, title: str) -> str:
    """The page of a sweep as HTML text."""
    others = [row for row in sweep.rows if row.state != "finished"]
    sections = [
        section("Accuracy against size and speed", _fronts(sweep)),
        section("Jobs", _table(HEAD, cells(sweep))),
        *([section("Not finished", _table(("overrides", "state", "folder"), _problems(others)))] if others else []),
    ]
    return page(title, "".join(sections), summary(sweep))


def _fronts(sweep: Sweep) -> str:
    """The charts of all costs that were measured, with a radio button for each that shows it."""
    costs = [cost for cost in COSTS if sweep.measured(cost)]
    if not costs:
        return "<p class='note'>No finished job has an accuracy and a cost yet.</p>"
    buttons = "".join(
        f"<input class='choice' type='radio' name='by' id='by-{place}'{' checked' if place == 0 else ''}>"
        for place in range(len(costs))
    )
    labels = "".join(f"<label for='by-{place}'>{escape(WORDS[cost])}</label>" for place, cost in enumerate(costs))
    charts = "".join(
        f"<div class='front front-{place}'>{scatter(sweep.measured(cost), sweep.fronts[cost], cost, WORDS[cost])}</div>"
        for place, cost in enumerate(costs)
    )
    return f"{buttons}<div class='choices'>{labels}</div>{charts}"


def _problems(rows: list[Row]) -> list[tuple[str, ...]]:
    return [(row.label, state_of(row), str(row.folder)) for row in rows]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    wordy = WORDY if head is HEAD else range(len(head))
    top = "".join(f"<th{' class=words' if at in wordy else ''}>{escape(cell)}</th>" for at, cell in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=words' if at in wordy else ''}>{escape(cell)}</td>" for at, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
