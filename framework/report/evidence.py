"""Makes the entries of a recipe's `results`: what its runs reached, and how to run them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from paredown.framework.recipe.tree.writing import to_yaml
from paredown.framework.recipe.tree.yaml_nodes import read_yaml
from paredown.framework.report.report import Report
from paredown.framework.report.summary import Summary

__all__ = ["evidence", "repeatable", "with_evidence"]


def repeatable(report: Report, task: str, seeds: Iterable[int], one_shot: bool) -> Report:
    """A report with what runs it again: the task as module:function, the seeds, whether without training."""
    return dataclasses.replace(report, run={"task": task, "seeds": list(seeds), "apply": one_shot})


def evidence(report: Report, task: str) -> dict[str, Any]:
    """An entry of `results`: accuracies, bytes, versions, and what runs it again where a command made the report."""
    dense, compressed = report.dense.bytes, report.compressed.bytes
    return {
        "task": task,
        "dense": _numbers(report.dense),
        "compressed": _numbers(report.compressed),
        "size_ratio": round(compressed / dense, 4) if compressed and dense else None,
        "versions": dict(report.versions),
        **({"run": dict(report.run)} if report.run else {}),
    }


def _numbers(model: Summary) -> dict[str, Any]:
    return {"accuracies": [round(float(value), 7) for value in model.accuracies], "bytes": model.bytes}


def with_evidence(recipe_text: str, report: Report, task: str) -> str:
    """A recipe's text with the evidence added to its results, unless it holds the same entry already."""
    values = read_yaml(recipe_text, "recipe")[0].plain()
    earlier = values.get("results") or []
    own = evidence(report, task)
    values["results"] = [*earlier, *([] if own in earlier else [own])]
    return to_yaml(values)
