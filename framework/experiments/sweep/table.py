"""The table of a sweep as cells of text, as JSON, as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from paredown.framework.experiments.sweep.collecting import Sweep
from paredown.framework.experiments.sweep.row import QUANTITIES, Row
from paredown.framework.report.metrics import Metric

__all__ = ["cells", "head", "short_cells", "short_head", "state_of", "summary", "to_csv", "to_json"]

STATES = ("finished", "failed", "running", "unfinished", "waiting")


def head(sweep: Sweep) -> tuple[str, ...]:
    """The heads of the columns of `cells`."""
    metrics = (metric.title for metric in _metrics(sweep))
    return ("job", "overrides", *metrics, "bytes", "MACs", "latency ms", "non-zero", "sparsity", "Pareto", "state")


def short_head(sweep: Sweep) -> tuple[str, ...]:
    """The heads of the columns of `short_cells`."""
    metrics = (metric.name for metric in _metrics(sweep))
    return ("job", "overrides", *metrics, "bytes", "MACs", "ms", "sparsity", "front", "state")


def cells(sweep: Sweep) -> list[tuple[str, ...]]:
    """A row of text for each job, under `head`."""
    names = _names(sweep.rows)
    return [
        (
            name,
            row.label,
            *(_metric(row, metric) for metric in _metrics(sweep)),
            *(_number(row, quantity, form) for quantity, form in _FORMS),
            ", ".join(sweep.marks(row)),
            state_of(row),
        )
        for name, row in zip(names, sweep.rows, strict=True)
    ]


def short_cells(sweep: Sweep) -> list[tuple[str, ...]]:
    """A row of short text for each job, under `short_head`; a front is marked by the first letter of its cost."""
    return [
        (
            name,
            _short_label(row),
            *(_metric(row, metric) for metric in _metrics(sweep)),
            *(_short(row.compressed.get(quantity)) for quantity in ("bytes", "macs")),
            _number(row, "latency", ".3g"),
            _number(row, "sparsity", ".3f"),
            " ".join(cost[0].upper() for cost in sweep.marks(row)),
            row.state,
        )
        for name, row in zip(_names(sweep.rows), sweep.rows, strict=True)
    ]


_FORMS = (("bytes", ",.0f"), ("macs", ",.0f"), ("latency", ".3g"), ("nonzeros", ",.0f"), ("sparsity", ".3f"))


def state_of(row: Row) -> str:
    """The state of a job with its progress and its error."""
    return ": ".join(filter(None, (row.state, row.doing, row.error)))


def summary(sweep: Sweep) -> str:
    """The number of jobs in each state, in words.

    >>> summary(Sweep(()))
    'no jobs'
    """
    counts = [(state, len(sweep.in_state(state))) for state in STATES]
    return ", ".join(f"{count} {state}" for state, count in counts if count) or "no jobs"


def to_json(sweep: Sweep) -> str:
    """Every job as JSON."""
    return json.dumps([_plain(sweep, row) for row in sweep.rows], indent=2, ensure_ascii=False)


def to_csv(sweep: Sweep) -> str:
    """Every job as a line of CSV; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = [name for metric in _metrics(sweep) for name in (metric.name, f"{metric.name}_spread")]
    columns = ("state", "error", *metrics, "seeds", *QUANTITIES, "seconds")
    quantities = (*(metric.name for metric in _metrics(sweep)), *QUANTITIES)
    writer.writerow(("folder", "overrides", *columns, *(f"dense_{name}" for name in quantities), "pareto"))
    for row in sweep.rows:
        plain = _plain(sweep, row)
        values = [plain["folder"], row.label, *(plain[name] for name in columns)]
        values += [row.dense.get(name) for name in quantities]
        writer.writerow([_safe(value) for value in (*values, " ".join(plain["pareto"]))])
    return text.getvalue()


def _metrics(sweep: Sweep) -> Sequence[Metric]:
    return sweep.metrics or (sweep.deciding,)


def _plain(sweep: Sweep, row: Row) -> dict[str, Any]:
    return {
        "folder": str(row.folder),
        "overrides": list(row.overrides),
        "state": row.state,
        "error": row.error,
        "seeds": row.seeds,
        **{name: row.compressed.get(name) for name in sweep.quantities},
        **{f"{metric.name}_spread": row.spread(metric.name) for metric in _metrics(sweep)},
        "dense": {name: row.dense.get(name) for name in sweep.quantities},
        "pareto": list(sweep.marks(row)),
        "seconds": row.seconds,
    }


def _names(rows: Sequence[Row]) -> Iterable[str]:
    """The folders of jobs, without the part that all of them share."""
    parts = [row.folder.parts for row in rows]
    shared = 0
    while parts and all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return ["/".join(one[shared:]) for one in parts]


def _metric(row: Row, metric: Metric) -> str:
    values = row.values.get(metric.name)
    return metric.plain(values) if values else ""


def _number(row: Row, quantity: str, form: str) -> str:
    value = row.compressed.get(quantity)
    return "" if value is None else format(value, form)


def _short_label(row: Row) -> str:
    """The overrides without the words that most of them begin with."""
    starts = ("modifiers.", "variables.")
    return " ".join(one[len(starts[0]) :] if one.startswith(starts) else one for one in row.overrides) or row.label


def _short(value: float | None) -> str:
    """A count in at most five characters.

    >>> _short(121274), _short(1143)
    ('121k', '1,143')
    """
    if value is None:
        return ""
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= max(power, 1e4):
            return f"{value / power:#.3g}".removesuffix(".") + unit
    return f"{value:,.0f}"


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
