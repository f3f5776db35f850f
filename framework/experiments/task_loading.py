"""Finding a user's job by ``module:function``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import typer

from paredown.framework.experiments.task import Task

__all__ = ["load_task"]


def load_task(source: str) -> Task:
    """Import ``module:function`` (the current folder counts) and call the function.

    Raises:
        typer.BadParameter: there is no such module or function, or it gives something else (wrong use, exit code 2).
    """
    module_name, _, function_name = source.partition(":")
    if not module_name or not function_name:
        raise typer.BadParameter(f"{source!r}: write module:function", param_hint="--task")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise typer.BadParameter(f"{source!r} cannot be imported: {error}", param_hint="--task") from error
    task = function()
    if not isinstance(task, Task):
        raise typer.BadParameter(
            f"{source!r} returned a {type(task).__name__}; a paredown.framework.experiments.task.Task is wanted",
            param_hint="--task",
        )
    return task
