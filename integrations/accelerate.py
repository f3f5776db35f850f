"""A recipe in a loop by Hugging Face Accelerate: one line instead of `manager.modify`."""

from __future__ import annotations

import math
from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paredown.framework.errors import CheckpointError
from paredown.framework.manager import ScheduledManager
from paredown.framework.tensor_files import load_plain

__all__ = ["STATE_FILE", "modify"]

#: what is written into each of the Accelerator's checkpoints
STATE_FILE = "paredown.pt"


def modify(
    accelerator: Any,
    manager: ScheduledManager,
    model: nn.Module,
    optimizer: Any,
    loader: Sized,
    *,
    save_teacher: bool = False,
    **given: Any,
) -> Any:
    """Hook a recipe into a loop whose parts ``accelerator.prepare`` gave.

    Accumulation, the gradient scaler and the number of optimizer steps in an epoch come from the accelerator;
    ``accelerator.save_state`` and ``load_state`` keep the recipe's state and give the model the checkpoint's structure
    before its weights are loaded. Load after this call and before the first step.

    Args:
        accelerator: the ``accelerate.Accelerator``.
        manager: of the recipe.
        model, optimizer, loader: as ``accelerator.prepare`` gave them.
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
        math.ceil(len(loader) / accumulate),
        accumulate=accumulate,
        grad_scaler=accelerator.scaler,
        **given,
    )

    def save(models: list[nn.Module], weights: list[Any], output_dir: str) -> None:
        if accelerator.is_main_process:
            torch.save(manager.state_dict(save_teacher), Path(output_dir) / STATE_FILE)

    def load(models: list[nn.Module], input_dir: str) -> None:
        file = Path(input_dir) / STATE_FILE
        if not file.is_file():
            raise CheckpointError(f"{file} does not exist: the checkpoint was saved without paredown's modify")
        manager.load_state_dict(load_plain(file))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)
    return optimizer
