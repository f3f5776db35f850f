"""The report of a run: the compressed model beside the dense one, as numbers, text, JSON and a page."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paredown.framework.errors import ParedownError
from paredown.framework.report.charts import timeline
from paredown.framework.report.metrics import Metric
from paredown.framework.report.page import curve_sections, layer_sections, page, section, source, table
from paredown.framework.report.summary import Curve, LayerRow, Summary
from paredown.framework.storage.files import write_text

__all__ = ["Report"]

Row = tuple[str, str, str, str]
HEAD: Row = ("", "dense", "compressed", "ratio")


@dataclass(frozen=True)
class Report:
    """Dense beside compressed: in total, layer by layer, and over time.

    Attributes:
        recipe: its name; ``recipe_text`` the recipe that ran, as YAML.
        dense, compressed: the totals.
        layers: the rows.
        windows: of the modifiers: name, type, first and last step.
        events: what happened when, as the manager's event log has it.
        history: what the modifiers and the loop measured over time.
        notes: what a reader must know of the numbers.
        versions: of Python, torch and paredown.
        task: the name of what was trained, where `paredown run` trained it.
        engine: the program in which latency was measured; "" for torch.
        metrics: what the models were evaluated by; the first one decides.
        run: how to run it again, where a command made it: the task, the seeds, whether without training.
    """

    recipe: str
    dense: Summary
    compressed: Summary
    layers: tuple[LayerRow, ...] = ()
    recipe_text: str = ""
    windows: tuple[dict[str, Any], ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    history: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    task: str = ""
    engine: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()

    def __str__(self) -> str:
        body = [HEAD, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*body, strict=True)]
        lines = [f"{row[0]:<{widths[0]}}  " + "  ".join(f"{row[c]:>{widths[c]}}" for c in (1, 2, 3)) for row in body]
        return "\n".join([f"{self.recipe}: {self.sentence}", *lines, *(f"note: {note}" for note in self.notes)])

    @property
    def sentence(self) -> str:
        """What came out, in one sentence: size, speed and the metric that decides beside the dense model's, as far as
        they are known.

        >>> Report("r", Summary(100, 100, bytes=600), Summary(100, 50, bytes=200)).sentence
        '3x smaller'
        """
        dense, compressed = self.dense, self.compressed
        if dense.bytes is not None and compressed.bytes is not None:
            size = _ratio(dense.bytes, compressed.bytes)
        else:
            size = _ratio(*(_widths(self.layers) or (dense.parameters, compressed.parameters)))
        told = [f"{size:.3g}x smaller" if size >= 1 else f"{1 / size:.3g}x larger"]
        if dense.latency is not None and compressed.latency is not None:
            speed = _ratio(dense.latency[1], compressed.latency[1])
            faster = f"{speed:.3g}x faster" if speed >= 1 else f"{1 / speed:.3g}x slower"
            told.append(f"{faster} in {self.engine or 'torch'}")
        changes = (
            metric.change(dense.values.get(metric.name, ()), compressed.values[metric.name])
            for metric, _ in self._metric_rows()[:1]
        )
        return ", ".join([*told, *changes])

    def rows(self) -> list[Row]:
        """The table: (quantity, dense, compressed, ratio), as text."""
        dense, compressed = self.dense, self.compressed
        rows = [
            _count_row("parameters", dense.parameters, compressed.parameters),
            _count_row("non-zero", dense.nonzeros, compressed.nonzeros),
            _count_row("bytes on disk", dense.bytes, compressed.bytes),
            _count_row("multiply-accumulates", dense.macs, compressed.macs),
            _latency_row(dense.latency, compressed.latency, self.engine),
            *_width_rows(self.layers),
            *(row for _, row in self._metric_rows()),
        ]
        return [row for row in rows if row is not None]

    def _metric_rows(self) -> list[tuple[Metric, Row]]:
        before, after = self.dense.values, self.compressed.values
        return [
            (metric, _metric_row(metric, before.get(metric.name, ()), after[metric.name]))
            for metric in self.metrics
            if after.get(metric.name)
        ]

    def to_html(self) -> str:
        """All of it as one self-contained page: no script, no file beside it, no network."""
        timed = any("start" in row for row in self.windows)
        sections = [
            section("Dense beside compressed", table(HEAD, self.rows()), self.notes),
            *([section("Timeline", timeline(self.windows))] if timed else []),
            *curve_sections(self.history),
            *layer_sections(self.layers),
            section("The recipe that ran", source(self.recipe_text)),
        ]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return page(f"{self.recipe}: report", "".join(sections), versions, heading=self.recipe)

    def to_json(self) -> str:
        """All of it, as JSON; null stands for what is not finite."""
        return json.dumps(_finite(dataclasses.asdict(self)), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote.

        Raises:
            ParedownError: the text is not a report.
        """
        try:
            plain = json.loads(text)
            for key in ("dense", "compressed"):
                values = {str(name): tuple(_floats(saved)) for name, saved in plain[key].get("values", {}).items()}
                plain[key] = Summary(**_with_tuples({**plain[key], "values": values}))
            plain["metrics"] = [Metric(**one) for one in plain.get("metrics", ())]
            plain["layers"] = [LayerRow(**_with_tuples(row)) for row in plain["layers"]]
            plain["history"] = [_curve(**one) for one in plain["history"]]
            return cls(**_with_tuples(plain))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ParedownError(f"this is no report of paredown: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write it as a page (.html, self-contained) or as data (.json).

        Raises:
            ParedownError: another suffix.
        """
        path = Path(path)
        if path.suffix not in (".html", ".json"):
            raise ParedownError(f"{path}: a report is saved as .html or .json")
        write_text(path, self.to_html() if path.suffix == ".html" else self.to_json())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _floats(saved: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in saved]


def _curve(points: Sequence[Sequence[float | None]], **names: str) -> Curve:
    return Curve(points=tuple((x, y) for x, y in map(_floats, points)), **names)


def _with_tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}


def _count_row(name: str, dense: int | None, compressed: int | None) -> Row | None:
    if dense is None or compressed is None:
        return None
    return name, f"{dense:,}", f"{compressed:,}", f"x{compressed / max(dense, 1):.3f}"


def _ratio(before: float, after: float) -> float:
    return before / max(after, 1e-30)


def _latency_row(dense: Sequence[float] | None, compressed: Sequence[float] | None, engine: str) -> Row | None:
    if compressed is None or (dense is None and not engine):
        return None
    before, after = (
        "" if each is None else "{1:.2f} ms ({0:.2f}-{2:.2f})".format(*each) for each in (dense, compressed)
    )
    ratio = "" if dense is None else f"x{compressed[1] / dense[1]:.3f}"
    return f"CPU time in {engine or 'torch'}, median (quartiles)", before, after, ratio


def _widths(layers: Sequence[LayerRow]) -> tuple[float, float] | None:
    """The bits of all parameters, before and after; None where there are none."""
    before, after = (sum(layer.bits[place] * layer.parameters[place] for layer in layers) for place in (0, 1))
    return (before, after) if before and after else None


def _width_rows(layers: Sequence[LayerRow]) -> Iterable[Row]:
    """The mean width of a parameter, and what all take at their widths, where widths changed."""
    bits, counts = _widths(layers), [sum(layer.parameters[place] for layer in layers) for place in (0, 1)]
    if bits is None or math.isclose(bits[0] / counts[0], bits[1] / counts[1]):
        return
    means = [of / count for of, count in zip(bits, counts, strict=True)]
    yield "bits of a parameter", f"{means[0]:.3g}", f"{means[1]:.3g}", f"x{means[1] / means[0]:.3f}"
    yield "bytes of parameters", f"{bits[0] / 8:,.0f}", f"{bits[1] / 8:,.0f}", f"x{bits[1] / bits[0]:.3f}"


def _metric_row(metric: Metric, dense: Sequence[float], compressed: Sequence[float]) -> Row:
    seeds = f"{len(compressed)} seeds" if len(compressed) > 1 else "one seed"
    before, change = (metric.shown(dense), metric.difference(dense, compressed)) if dense else ("", "")
    return f"{metric.name} ({seeds})", before, metric.shown(compressed), change
