"""What a run left as the file of an engine: loaded into the task's model, exported, and packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paredown.framework.engine.exporting import Exported, export
from paredown.framework.engine.registry import DEFAULT, engine_called
from paredown.framework.errors import ArgumentError
from paredown.framework.experiments.task import Task
from paredown.framework.recipe import Recipe
from paredown.framework.run.checkpoint import load
from paredown.framework.storage.archive import zip_files

__all__ = ["export_run", "zipped"]

CHECKPOINT = "checkpoint.pt"


def export_run(task: Task, source: Path, path: Path, engine: str | None = None, **options: Any) -> Exported:
    """Export the compressed model of a run; it is compared on batches of the task, with the task's model as reference.

    Args:
        source: a folder that `paredown run` wrote, or a checkpoint.
        path: the file to write.
        engine: its name. Default: the ``run.engine`` of the recipe in the checkpoint, else onnxruntime.
        options: of `paredown.export`.

    Raises:
        ArgumentError: there is no checkpoint.
        ExportError: see `paredown.export`.
    """
    checkpoint = source / CHECKPOINT if source.is_dir() else source
    if not checkpoint.is_file():
        raise ArgumentError(f"{source} holds no {CHECKPOINT}: give a folder of paredown run, or a checkpoint", "source")
    name = engine or Recipe.load(checkpoint).engine or DEFAULT
    model = load(checkpoint, task.build_model())
    path.parent.mkdir(parents=True, exist_ok=True)
    options.setdefault("reference", task.build_model())
    return export(model, task.example_inputs, path, engine=name, data=task.train_loader, **options)


def zipped(made: Exported) -> Path:
    """Pack the files of an export into an archive beside them, ``<name>.zip``: zeros and few bits are small only so."""
    archive = made.path.with_name(f"{made.path.name}.zip")
    zip_files(engine_called(made.engine).files(made.path), archive)
    return archive
