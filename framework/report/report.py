"""What came out of a run, beside what went in."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paredown.framework.errors import ParedownError
from paredown.framework.report.table import text_table

__all__ = ["LayerRow", "Report", "Summary"]


@dataclass(frozen=True)
class Summary:
    """One model in numbers; None where a number was not measured.

    ``bytes`` are those of a DEFLATE-compressed file with all tensors, ``bytes_plain`` of an uncompressed one;
    ``latency`` is milliseconds a forward (lower quartile, median, upper quartile); ``accuracies`` has one value a seed,
    nan where a model diverged.
    """

    parameters: int
    nonzeros: int
    bytes: int | None = None
    bytes_plain: int | None = None
    macs: int | None = None
    latency: tuple[float, float, float] | None = None
    accuracies: tuple[float, ...] = ()

    @property
    def sparsity(self) -> float:
        """Share of zeros among the parameters."""
        return 1 - self.nonzeros / max(self.parameters, 1)

    @property
    def accuracy(self) -> float | None:
        """The mean over seeds."""
        return sum(self.accuracies) / len(self.accuracies) if self.accuracies else None


@dataclass(frozen=True)
class LayerRow:
    """A layer of the original model, and what stands in its place now (dense, compressed)."""

    name: str
    kind: str
    parameters: tuple[int, int]
    nonzeros: tuple[int, int]
    bits: tuple[float, float]
    macs: tuple[int, int] | None = None


@dataclass(frozen=True)
class Report:
    """Dense beside compressed: in total, layer by layer, and over time.

    Attributes:
        recipe: its name; ``recipe_text`` the recipe that ran, as YAML.
        dense, compressed: the totals.
        layers: the rows.
        windows: of the modifiers: name, type, first and last step.
        events: what happened when, as the manager's event log has it.
        history: curves over time: name to points (epoch, value).
        notes: what a reader must know of the numbers.
        versions: of Python, torch and paredown.
        run: how it is run again, where a command made it: the task, the seeds, whether without training.
    """

    recipe: str
    dense: Summary
    compressed: Summary
    layers: tuple[LayerRow, ...] = ()
    recipe_text: str = ""
    windows: tuple[dict[str, Any], ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    history: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return text_table(self.recipe, self.rows(), self.notes)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The table: (quantity, dense, compressed, ratio), as text."""
        dense, compressed = self.dense, self.compressed
        rows = [
            _row("parameters", dense.parameters, compressed.parameters),
            _row("non-zero", dense.nonzeros, compressed.nonzeros),
            _row("bytes on disk", dense.bytes, compressed.bytes),
            _row("multiply-accumulates", dense.macs, compressed.macs),
            _latency_row(dense.latency, compressed.latency),
            _accuracy_row(dense.accuracies, compressed.accuracies),
        ]
        return [row for row in rows if row is not None]

    def to_json(self) -> str:
        """All of it, as JSON; null stands for what is not finite."""
        return json.dumps(_finite(dataclasses.asdict(self)), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote.

        Raises:
            ParedownError: the text is no report.
        """
        try:
            plain = json.loads(text)
            for key in ("dense", "compressed"):
                accuracies = [math.nan if one is None else one for one in plain[key].get("accuracies", ())]
                plain[key] = Summary(**_with_tuples({**plain[key], "accuracies": accuracies}))
            plain["layers"] = [LayerRow(**_with_tuples(row)) for row in plain["layers"]]
            plain["history"] = {
                name: [(x, math.nan if y is None else y) for x, y in points]
                for name, points in plain["history"].items()
            }
            return cls(**_with_tuples(plain))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ParedownError(f"this is no report of paredown: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write it as a page (.html, self-contained) or as data (.json).

        Raises:
            ParedownError: another suffix.
        """
        from paredown.framework.report.page import html_page

        path = Path(path)
        if path.suffix not in (".html", ".json"):
            raise ParedownError(f"{path}: a report is saved as .html or .json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html_page(self) if path.suffix == ".html" else self.to_json(), encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}


def _row(name: str, dense: int | None, compressed: int | None) -> tuple[str, str, str, str] | None:
    if dense is None or compressed is None:
        return None
    return name, f"{dense:,}", f"{compressed:,}", f"x{compressed / max(dense, 1):.3f}"


def _latency_row(dense: Sequence[float] | None, compressed: Sequence[float] | None) -> tuple[str, str, str, str] | None:
    if dense is None or compressed is None:
        return None
    told = [f"{middle:.2f} ms ({lower:.2f}-{upper:.2f})" for lower, middle, upper in (dense, compressed)]
    return "latency, median (quartiles)", *told, f"x{compressed[1] / dense[1]:.3f}"  # type: ignore[return-value]


def _accuracy_row(dense: Sequence[float], compressed: Sequence[float]) -> tuple[str, str, str, str] | None:
    if not dense or not compressed:
        return None
    seeds = f"{len(compressed)} seeds" if len(compressed) > 1 else "one seed"
    difference = sum(compressed) / len(compressed) - sum(dense) / len(dense)
    return f"accuracy ({seeds})", _spread(dense), _spread(compressed), f"{100 * difference:+.2f} points"


def _spread(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.4f}"
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.4f} ± {deviation:.4f}"
