"""The parts of a self-contained HTML page: the frame with its style, sections, tables and charts.

A page has no script, no file beside it, and needs no network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files

from paredown.framework.report.charts import bar_chart, line_chart
from paredown.framework.report.summary import Curve, LayerRow

__all__ = [
    "curve_sections",
    "layer_sections",
    "page",
    "section",
    "sensitivity_page",
    "source",
    "stylesheet",
    "table",
]


def page(title: str, content: str, footer: str, heading: str | None = None) -> str:
    """A whole page around HTML content; the heading is the title unless another is given."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{stylesheet()}</style></head><body><main>"
        f"<h1>{escape(title if heading is None else heading)}</h1>{content}<footer>{escape(footer)}</footer>"
        "</main></body></html>\n"
    )


def stylesheet() -> str:
    """The style of pages and charts, as CSS."""
    return files("paredown.framework.report").joinpath("page.css").read_text(encoding="utf-8")


def section(title: str, content: str, notes: Iterable[str] = ()) -> str:
    """A part of a page with a heading, and notes below it."""
    below = "".join(f"<p class='note'>{escape(note)}</p>" for note in notes)
    return f"<section><h2>{escape(title)}</h2>{content}</section>{below}"


def source(text: str) -> str:
    """Text in its own lines, such as a recipe."""
    return f"<pre>{escape(text)}</pre>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], wrapped: Iterable[int] = ()) -> str:
    """A table of text; the cells of the columns ``wrapped`` break into lines."""
    wide = frozenset(wrapped)
    top = _cells("th", head, wide)
    body = "".join(f"<tr>{_cells('td', row, wide)}</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _cells(tag: str, row: Sequence[str], wrapped: frozenset[int]) -> str:
    opened = (f"{tag} class=words" if column in wrapped else tag for column in range(len(row)))
    return "".join(f"<{start}>{escape(cell)}</{tag}>" for start, cell in zip(opened, row, strict=True))


def curve_sections(curves: Iterable[Curve]) -> Iterator[str]:
    """A section with a chart for each quantity; the curves of all modifiers go into one chart."""
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for curve in curves:
        drawn = [(x, y) for x, y in curve.points if math.isfinite(y)]
        if drawn:
            charts.setdefault(curve.quantity, {})[curve.title] = drawn
    for quantity, lines in charts.items():
        yield section(f"{quantity[:1].upper()}{quantity[1:]} over time", line_chart(lines))


def layer_sections(layers: Sequence[LayerRow]) -> Iterator[str]:
    """Two sections on the layers of a model: their non-zero weights as bars, and all their numbers as a table."""
    bars = [(layer.title, float(layer.parameters[0]), float(layer.nonzeros[1])) for layer in layers]
    yield section("Non-zero weights by layer", bar_chart(bars))
    head = ("layer", "kind", "parameters", "now", "non-zero now", "bits now", "MACs", "now")
    yield section("Layers", table(head, map(_layer_cells, layers)))


def _layer_cells(layer: LayerRow) -> Sequence[str]:
    return (
        layer.title,
        layer.kind,
        f"{layer.parameters[0]:,}",
        f"{layer.parameters[1]:,}",
        f"{layer.nonzeros[1]:,}",
        f"{layer.bits[1]:.1f}",
        *(("", "") if layer.macs is None else (f"{layer.macs[0]:,}", f"{layer.macs[1]:,}")),
    )


def sensitivity_page(rows: Iterable[tuple[str, float, float]], unit: str, measure: str, logarithm: bool) -> str:
    """A page of the sensitivity of layers: (layer, setting, error) as curves of the error, or of its ``logarithm`` to
    base 10, over the setting; a setting whose ``unit`` begins with % is a share and is shown in percent."""
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
