"""Writes a recipe as a Markdown card: the recipe in the front matter, and a description for readers below it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.clock import Clock
from paredown.framework.recipe import Recipe
from paredown.framework.recipe.comparing import window_text
from paredown.framework.report.charts import timeline
from paredown.framework.report.page import stylesheet
from paredown.framework.report.spread import Spread

__all__ = ["card", "timeline_picture"]

#: the picture's resolution; a recipe does not know the number of batches
STEPS_PER_EPOCH = 1000


def card(recipe: Recipe, source: str, picture: str | None = None) -> str:
    """The card, which `Recipe.load` reads back.

    Args:
        recipe: with or without results.
        source: the file's name, for the command.
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
        _usage(recipe, source),
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
    rows = [
        (
            str(one.get("about", one.get("task", ""))),
            _accuracy(one.get("dense")),
            _accuracy(one.get("compressed")),
            _number(one.get("dense"), "bytes"),
            _number(one.get("compressed"), "bytes"),
            str(one.get("size_ratio", "")),
        )
        for one in results
    ]
    head = ("", "accuracy, dense", "accuracy, compressed", "bytes, dense", "bytes, compressed", "ratio")
    return _table(head, rows)


def _accuracy(one: Any) -> str:
    values = one.get("accuracies") if isinstance(one, Mapping) else None
    return f"{Spread.of(values).mean:.4f} (of {len(values)})" if values else ""


def _number(one: Any, key: str) -> str:
    value = one.get(key) if isinstance(one, Mapping) else None
    return f"{value:,}" if isinstance(value, int) else ""


def _usage(recipe: Recipe, source: str) -> str:
    proof = f"paredown verify {source}\n" if recipe.results else ""
    return (
        f"```\nparedown run {source} --task my_project.job:task\n{proof}```\n\n"
        "In a training loop of your own:\n\n"
        f'```\nmanager = ScheduledManager.from_yaml("{source}")\n'
        "optimizer = manager.modify(model, optimizer, steps_per_epoch=len(loader))\n```"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
