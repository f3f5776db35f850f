"""A recipe in a loop by Hugging Face Accelerate: one line instead of `manager.modify`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paredown.framework.errors import CheckpointError, ScheduleError
from paredown.framework.model.targets import unwrap
from paredown.framework.run.manager import ScheduledManager
from paredown.framework.run.saved_runs import STATE_FILE
from paredown.framework.storage.files import load_plain
from paredown.integrations.trackers import Tracker

__all__ = ["STATE_FILE", "AcceleratorTracker", "modify"]


class AcceleratorTracker(Tracker):
    """Logs into the trackers of an Accelerator, those of ``log_with``."""

    def __init__(self, manager: ScheduledManager, accelerator: Any) -> None:
        super().__init__(manager)
        self.accelerator = accelerator

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self.accelerator.log(dict(values), step=step)

    def mark(self, title: str, event: Mapping[str, Any], step: int) -> None:
        """What happens once has no place in all of an Accelerator's trackers."""


def modify(
    accelerator: Any,
    manager: ScheduledManager,
    model: nn.Module,
    optimizer: Any,
    loader: Sized | int,
    *,
    save_teacher: bool = False,
    **given: Any,
) -> Any:
    """Hook a recipe into a loop whose parts ``accelerator.prepare`` gave.

    Accumulation, the gradient scaler and the number of optimizer steps in an epoch come from the accelerator;
    ``accelerator.save_state`` and ``load_state`` keep the recipe's state and give the model the checkpoint's structure
    before its weights are loaded. Load after this call and before the first step. Where ``accelerator.init_trackers``
    was called before, they get the sparsity and the bits of every layer, and the losses.

    Args:
        accelerator: the ``accelerate.Accelerator``.
        manager: of the recipe.
        model, optimizer, loader: as ``accelerator.prepare`` gave them; in place of a loader without a length, the
            number of batches in an epoch.
        save_teacher: keep the initial teacher's tensors in the checkpoints.
        given: ``data``, ``teacher``, ``example_inputs``, ``forward``, ``strict`` as of `ScheduledManager.modify`.

    Returns:
        The very optimizer that was given.

    Raises:
        ParedownError: anything that does not fit, before the model is changed.
        CheckpointError: (from ``load_state``) the folder has no state of a recipe.
    """
    accumulate = accelerator.gradient_accumulation_steps
    manager.modify(
        model,
        optimizer,
        math.ceil(_batches(loader) / accumulate),
        accumulate=accumulate,
        grad_scaler=accelerator.scaler,
        **given,
    )

    if accelerator.trackers:
        manager.events.listeners.append(AcceleratorTracker(manager, accelerator))

    def save(models: list[nn.Module], weights: list[Any], output_dir: str) -> None:
        if accelerator.is_main_process:
            torch.save(manager.state_dict(save_teacher), Path(output_dir) / _file_of(manager, models))

    def load(models: list[nn.Module], input_dir: str) -> None:
        file = Path(input_dir) / _file_of(manager, models)
        if not file.is_file():
            raise CheckpointError(f"{file} does not exist: the checkpoint was saved without paredown's modify")
        manager.load_state_dict(load_plain(file))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)
    return optimizer


def _batches(loader: Sized | int) -> int:
    if isinstance(loader, int):
        return loader
    try:
        return len(loader)
    except TypeError:
        raise ScheduleError(
            "the loader has no length, so an epoch has no number of steps: give modify the number of batches in an "
            "epoch in its place"
        ) from None


def _file_of(manager: ScheduledManager, models: list[nn.Module]) -> str:
    """Named as the accelerator names the files of its models."""
    own = None if manager.run is None else manager.run.model
    place = next((place for place, model in enumerate(models) if unwrap(model) is own), 0)
    name, _, ending = STATE_FILE.partition(".")
    return f"{name}_{place}.{ending}" if place else STATE_FILE
