"""Recipes and overrides on the command line: `recipe.yaml modifiers.prune.end=20`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Overrides", "Source", "TaskName", "require_source", "split_overrides"]

Source = Annotated[str, typer.Argument(metavar="RECIPE", help="A file, a card, a name, or hub:team/name@revision.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="OVERRIDE", help="Such as run.epochs=3.")]
TaskName = Annotated[
    str, typer.Option("--task", "-t", metavar="MODULE:FUNCTION", help="A function that returns a Task: model and data.")
]

_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.-]*(=.*)?", re.DOTALL)


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sources and overrides.

    >>> split_overrides(["a.yaml", "run.epochs=3", "~modifiers.prune"])
    (['a.yaml'], ['run.epochs=3', '~modifiers.prune'])
    """
    overrides = [argument for argument in arguments if _is_override(argument)]
    return [argument for argument in arguments if argument not in overrides], overrides


def require_source(source: str) -> None:
    """Refuse what is neither a file, nor a recipe's name, nor an address on the Hub.

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
