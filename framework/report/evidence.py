"""The evidence that travels with a recipe: an entry of its `results`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import yaml

from paredown.framework.recipe.tree.writing import to_yaml
from paredown.framework.report.report import Report

__all__ = ["evidence", "repeatable", "with_evidence"]


def repeatable(report: Report, task: str, seeds: Iterable[int], one_shot: bool) -> Report:
    """A report that tells how it is run again: the task as module:function, the seeds, whether without training."""
    return dataclasses.replace(report, run={"task": task, "seeds": list(seeds), "apply": one_shot})


def evidence(report: Report, task: str) -> dict[str, Any]:
    """What a report proves, as an entry of `results`: accuracies and bytes of dense and compressed, versions, and where
    a command made it how it is run again."""
    plain = json.loads(report.to_json())
    dense, compressed = (
        {"accuracies": [round(value, 7) for value in plain[one]["accuracies"]], "bytes": plain[one]["bytes"]}
        for one in ("dense", "compressed")
    )
    ratio = round(compressed["bytes"] / dense["bytes"], 4) if compressed["bytes"] and dense["bytes"] else None
    return {
        "task": task,
        "dense": dense,
        "compressed": compressed,
        "size_ratio": ratio,
        "versions": plain["versions"],
        **({"run": plain["run"]} if plain["run"] else {}),
    }


def with_evidence(recipe_text: str, report: Report, task: str) -> str:
    """A recipe's text with the evidence behind the results that it has already; the same is not written twice."""
    values = yaml.safe_load(recipe_text)
    earlier = values.get("results") or []
    own = evidence(report, task)
    values["results"] = [*earlier, *([] if own in earlier else [own])]
    return to_yaml(values)
