"""A report as one self-contained page: no script, no file beside it, no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from paredown.framework.report.charts import bar_chart, line_chart, timeline

if TYPE_CHECKING:
    from paredown.framework.report.report import LayerRow, Report

__all__ = ["html_page", "page", "section", "sensitivity_page", "table"]


def html_page(report: Report) -> str:
    """The page as HTML text."""
    sections = [
        section("Dense beside compressed", table(("", "dense", "compressed", "ratio"), report.rows())),
        *([section("Timeline", timeline(report.windows))] if any("start" in row for row in report.windows) else []),
        *(section(title, line_chart(curves)) for title, curves in _grouped(report.history).items()),
        section("Non-zero weights by layer", bar_chart(_bars(report.layers))),
        section("Layers", _layer_table(report.layers)),
        section("The recipe that ran", f"<pre>{escape(report.recipe_text)}</pre>"),
    ]
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in report.notes)
    told = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return page(f"{report.recipe}: report", f"{sections[0]}{notes}{''.join(sections[1:])}", told)


def sensitivity_page(rows: Iterable[tuple[str, float, float]], unit: str, measure: str, logarithm: bool) -> str:
    """A page of how layers bear settings: (layer, setting, error) as curves of the error, or of its ``logarithm`` to
    base 10, over the setting; a ``unit`` that begins with % is of shares."""
    scale = 100 if unit.startswith("%") else 1
    rows = [(layer or "(model)", scale * setting, error) for layer, setting, error in rows]
    curves: dict[str, list[tuple[float, float]]] = {}
    for layer, setting, error in rows:
        if math.isfinite(error):
            curves.setdefault(layer, []).append((setting, math.log10(max(error, 1e-12)) if logarithm else error))
    numbers = table(("layer", unit, "error"), ((name, f"{setting:.4g}", f"{e:.3g}") for name, setting, e in rows))
    title = f"{'log10 of the ' if logarithm else ''}{measure}, over {unit}"
    content = section(title, line_chart(curves, unit))
    return page("Sensitivity", content + section("Numbers", numbers), "")


def page(title: str, content: str, footer: str) -> str:
    """A page around HTML content: its title, its style, its footer."""
    style = files("paredown.framework.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>"
        f"<h1>{escape(title.removesuffix(': report'))}</h1>{content}<footer>{escape(footer)}</footer>"
        "</main></body></html>\n"
    )


def section(title: str, content: str) -> str:
    """A part of a page with a heading."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _layer_table(layers: Iterable[LayerRow]) -> str:
    head = ("layer", "kind", "parameters", "now", "non-zero now", "bits now", "MACs", "now")
    return table(
        head,
        (
            (
                layer.name or "(model)",
                layer.kind,
                f"{layer.parameters[0]:,}",
                f"{layer.parameters[1]:,}",
                f"{layer.nonzeros[1]:,}",
                f"{layer.bits[1]:.1f}",
                *(("", "") if layer.macs is None else (f"{layer.macs[0]:,}", f"{layer.macs[1]:,}")),
            )
            for layer in layers
        ),
    )


def _bars(layers: Iterable[LayerRow]) -> list[tuple[str, float, float]]:
    return [(layer.name or "(model)", float(layer.parameters[0]), float(layer.nonzeros[1])) for layer in layers]


def _grouped(
    history: dict[str, list[tuple[float, float]]],
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Curves of one quantity ("sparsity (prune)", "sparsity (again)") go into one chart."""
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, points in history.items():
        quantity = name.partition(" (")[0]
        drawn = [(x, y) for x, y in points if math.isfinite(y)]
        if drawn:
            charts.setdefault(f"{quantity[:1].upper()}{quantity[1:]} over time", {})[name] = drawn
    return charts
