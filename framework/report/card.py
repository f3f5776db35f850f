"""Writes a recipe as a Markdown card: the recipe in the front matter, and a description for readers below it."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.clock import Clock
from paredown.framework.recipe import Recipe
from paredown.framework.recipe.comparing import window_text
from paredown.framework.report.charts import timeline
from paredown.framework.report.metrics import Metric
from paredown.framework.report.page import stylesheet
from paredown.framework.report.proof import values_in
from paredown.framework.report.spread import Spread

__all__ = ["card", "timeline_picture"]

#: the picture's resolution; a recipe does not know the number of batches
STEPS_PER_EPOCH = 1000

MODELS = ("dense", "compressed")


def card(recipe: Recipe, source: str, picture: str | None = None, overrides: Sequence[str] = ()) -> str:
    """The card, which `Recipe.load` reads back.

    Args:
        recipe: with or without results.
        source: the file's name, for the command.
        overrides: those that make the recipe of this source, for the command.
        picture: a link to `timeline_picture`; None for none.
    """
    rows = [
        (f"`{name}`", f"`{one.type}`", first_sentence(one), window_text(one)) for name, one in recipe.modifiers.items()
    ]
    parts = [
        f"---\n{recipe.to_yaml()}---",
        f"# {recipe.name}",
        recipe.description,
        "## What it does",
        _table(("modifier", "type", "", "epochs"), rows),
        f"![Timeline]({picture})" if picture else "",
        *(["## Results", _results(recipe.results)] if recipe.results else []),
        "## How to use it",
        _usage(recipe, source, overrides),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def timeline_picture(recipe: Recipe) -> str | None:
    """The windows of the modifiers as a picture (SVG); None for a recipe that has no length, or counts in steps."""
    times = [time for one in recipe.modifiers.values() for time in (one.start, one.end) if time is not None]
    if recipe.run_epochs is None or not recipe.modifiers or any(time.unit == "steps" for time in times):
        return None
    clock = Clock(STEPS_PER_EPOCH, recipe.run_epochs)
    windows = [(one, clock.window(one.span)) for one in recipe.modifiers.values()]
    rows = [
        {
            "name": one.name,
            "type": one.type,
            "start": window.start,
            "end": window.end,
            "steps_per_epoch": STEPS_PER_EPOCH,
        }
        for one, window in windows
    ]
    return timeline(rows, stylesheet()) + "\n"


def first_sentence(modifier: Modifier) -> str:
    """The first sentence of a modifier's documentation."""
    text = " ".join((inspect.getdoc(type(modifier)) or "").split())
    return re.split(r"(?<=[.:])\s", text, maxsplit=1)[0].rstrip(":.")


def _results(results: Iterable[Mapping[str, Any]]) -> str:
    results = list(results)
    metrics = {metric.name: metric for one in results for metric in _metrics(one)}
    rows = [
        (
            str(one.get("about", one.get("task", ""))),
            *(_value(one.get(model), metric) for metric in metrics.values() for model in MODELS),
            *(_number(one.get(model), "bytes") for model in MODELS),
            str(one.get("size_ratio", "")),
        )
        for one in results
    ]
    head = (f"{quantity}, {model}" for quantity in (*metrics, "bytes") for model in MODELS)
    return _table(("", *head, "ratio"), rows)


def _metrics(result: Mapping[str, Any]) -> list[Metric]:
    """The metrics of an entry, with what it records of them."""
    known = result.get("metrics")
    known = known if isinstance(known, Mapping) else {}
    names = [name for model in MODELS if isinstance(one := result.get(model), Mapping) for name in values_in(one)]
    fields = {name: known[name] if isinstance(known.get(name), Mapping) else {} for name in names}
    return [
        Metric(name, **{key: one[key] for key in ("goal", "unit", "scale") if key in one})
        for name, one in fields.items()
    ]


def _value(model: Any, metric: Metric) -> str:
    values = values_in(model).get(metric.name) if isinstance(model, Mapping) else None
    return f"{metric.shown([Spread.of(values).mean])} (of {len(values)})" if values else ""


def _number(one: Any, key: str) -> str:
    value = one.get(key) if isinstance(one, Mapping) else None
    return f"{value:,}" if isinstance(value, int) else ""


def _usage(recipe: Recipe, source: str, overrides: Sequence[str]) -> str:
    """The commands; with the task that the results record, and what names it where it is not paredown's own."""
    runs = [one["run"] for one in recipe.results if isinstance(one.get("run"), Mapping) and one["run"].get("task")]
    task = str(runs[0]["task"]) if runs else "my_project.job:task"
    named = "" if task.startswith("paredown.") else f" --task {shlex.quote(task)}"
    without_training = " --apply" if runs and runs[0].get("apply") else ""
    command = shlex.join(["paredown", "run", source, *overrides, "--task", task])
    proof = f"{shlex.join(['paredown', 'verify', source])}{named}\n" if runs and not overrides else ""
    given = f", overrides={list(overrides)}" if overrides else ""
    return (
        f"```\n{command}{without_training}\n{proof}```\n\n"
        "In a training loop of your own:\n\n"
        f"```\nmanager = ScheduledManager.from_yaml({json.dumps(source)}{given})\n"
        "optimizer = manager.modify(model, optimizer, steps_per_epoch=len(loader))\n```"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
