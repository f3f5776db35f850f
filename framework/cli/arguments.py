"""Arguments that several commands have: recipes with overrides (`recipe.yaml modifiers.prune.end=20`), and tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from paredown.framework.cli.console import print_problem
from paredown.framework.errors import ArgumentError, RecipeError

__all__ = [
    "TASK",
    "Overrides",
    "Source",
    "TaskName",
    "require_source",
    "several_values",
    "split_overrides",
    "wrong_use",
]

TASK = typer.Option(
    "--task", "-t", metavar="MODULE:FUNCTION", help="A function that returns a Task; or FILE.py:FUNCTION."
)

Source = Annotated[str, typer.Argument(metavar="RECIPE", help="A file, a card, a name, or hub:team/name@revision.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="OVERRIDE", help="Such as run.epochs=3.")]
TaskName = Annotated[str, TASK]

_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.-]*(=.*)?", re.DOTALL)
#: values apart by commas, or one of the functions by which a sweep has several
_SEVERAL = re.compile(r"[^=]+=([^\[{\"'(]+,.*|(range|interval|choice|glob)\(.*\))", re.DOTALL)
#: the command line's names of Python's arguments
_HINTS = {
    "budgets": "--budget",
    "by": "--by",
    "condition": "--pick",
    "folder": "--output",
    "folders": "FOLDER",
    "objectives": "--objectives",
    "overrides": "OVERRIDE",
    "settings": "--recipe",
    "source": "FOLDER|FILE",
    "target": "--target",
    "task": "--task",
    "time": "--time",
}


@contextmanager
def wrong_use() -> Iterator[None]:
    """Turn a wrong argument inside of the block into wrong use of the option that it came from (exit code 2)."""
    try:
        yield
    except ArgumentError as error:
        raise typer.BadParameter(str(error), param_hint=_HINTS.get(error.argument, error.argument)) from error


@contextmanager
def several_values(overrides: Sequence[str]) -> Iterator[None]:
    """Where a recipe is wrong inside of the block, and an override has several values, name what takes several."""
    try:
        yield
    except RecipeError as error:
        several = [one for one in overrides if _SEVERAL.fullmatch(one)]
        if not several:
            raise
        print_problem(str(error))
        raise typer.BadParameter(
            f"{several[0]} has several values: add -m for a run with each of them", param_hint="OVERRIDE"
        ) from error


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into sources and overrides.

    >>> split_overrides(["a.yaml", "run.epochs=3", "~modifiers.prune"])
    (['a.yaml'], ['run.epochs=3', '~modifiers.prune'])
    """
    overrides = [argument for argument in arguments if _is_override(argument)]
    return [argument for argument in arguments if argument not in overrides], overrides


def require_source(source: str) -> None:
    """Refuse a source that is neither a file, nor a recipe's name, nor an address on the Hub.

    Raises:
        typer.BadParameter: there is no such recipe (wrong use, exit code 2).
    """
    from paredown.framework.recipe.reading.collections import named_file, near_names
    from paredown.framework.recipe.reading.hub import PREFIX

    if not Path(source).exists() and not source.startswith(PREFIX) and named_file(source) is None:
        raise typer.BadParameter(f"{source}: no such file, and no recipe of that name{near_names(source)}")


def _is_override(argument: str) -> bool:
    if Path(argument).exists() or not _OVERRIDE.fullmatch(argument):
        return False
    return "=" in argument or argument.startswith("~")
