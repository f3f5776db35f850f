"""Makes the entries of a recipe's `results`: what its runs reached, and how to run them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from paredown.framework.recipe.tree.writing import to_yaml
from paredown.framework.recipe.tree.yaml_nodes import read_yaml
from paredown.framework.report.metrics import ACCURACY, Metric
from paredown.framework.report.report import Report
from paredown.framework.report.summary import Summary

__all__ = ["evidence", "repeatable", "with_evidence"]


def repeatable(report: Report, task: str, seeds: Iterable[int], one_shot: bool) -> Report:
    """A report with what runs it again: the task as module:function, the seeds, whether without training."""
    return dataclasses.replace(report, run={"task": task, "seeds": list(seeds), "apply": one_shot})


def evidence(report: Report, task: str) -> dict[str, Any]:
    """An entry of `results`: metrics, bytes, versions, and what runs it again where a command made the report."""
    dense, compressed = report.dense.bytes, report.compressed.bytes
    return {
        "task": task,
        **_metrics(report.metrics),
        "dense": _numbers(report.dense),
        "compressed": _numbers(report.compressed),
        "size_ratio": round(compressed / dense, 4) if compressed and dense else None,
        "versions": dict(report.versions),
        **({"run": dict(report.run)} if report.run else {}),
    }


def _metrics(metrics: Iterable[Metric]) -> dict[str, Any]:
    """Which way each metric is better, and its unit, where it is not the accuracy as a share."""
    if all(metric == ACCURACY for metric in metrics):
        return {}
    plain = {one.name: {"goal": one.goal, "unit": one.unit, "scale": one.scale} for one in metrics}
    return {"metrics": {name: {key: value for key, value in one.items() if value} for name, one in plain.items()}}


def _numbers(model: Summary) -> dict[str, Any]:
    """Of accuracies, which most recipes have, a list of their own; other metrics by their names."""
    values = {name: [_rounded(value) for value in each] for name, each in model.values.items()}
    accuracies = {"accuracies": values.pop(ACCURACY.name)} if ACCURACY.name in values else {}
    return {**accuracies, **({"metrics": values} if values else {}), "bytes": model.bytes}


def _rounded(value: float) -> float:
    return round(float(value), 7) if abs(value) < 1 else float(f"{float(value):.8g}")


def with_evidence(recipe_text: str, report: Report, task: str) -> str:
    """A recipe's text with the evidence added to its results, unless it holds the same entry already."""
    values = read_yaml(recipe_text, "recipe")[0].plain()
    earlier = values.get("results") or []
    own = evidence(report, task)
    values["results"] = [*earlier, *([] if own in earlier else [own])]
    return to_yaml(values)
