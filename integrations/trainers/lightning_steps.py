"""How many optimizer steps Lightning's Trainer makes, and with which optimizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from paredown.framework.errors import ScheduleError
from paredown.framework.model.optimizers import train_any

__all__ = ["optimizers_of", "steps_of"]


def steps_of(trainer: Any, automatic: bool, accumulate: int, epochs: float | None) -> tuple[int, float]:
    """Optimizer steps in an epoch, and until the trainer stops (infinity where it has no end).

    Args:
        trainer: Lightning's, with its optimizers.
        automatic: whether Lightning makes the steps; otherwise all optimizers are taken to step equally often, and the
            steps are those of one, where Lightning's own count is of all together.
        accumulate: over how many batches gradients are accumulated.
        epochs: of the recipe.

    Raises:
        ScheduleError: neither the data nor the training has a length.
    """
    if trainer.train_dataloader is None:  # else batches are not counted yet, nor by the trainer where it has no epochs
        trainer.fit_loop.setup_data()
    if automatic:
        total = trainer.estimated_stepping_batches
        return _of_an_epoch(trainer.num_training_batches, total, accumulate, epochs), total
    total = math.inf if trainer.max_steps == -1 else trainer.max_steps / len(trainer.optimizers)
    steps = _of_an_epoch(trainer.num_training_batches, total, accumulate, epochs)
    return steps, total if trainer.max_epochs in (None, -1) else min(total, trainer.max_epochs * steps)


def optimizers_of(model: nn.Module, optimizers: Sequence[Any]) -> list[Any]:
    """Those that train the model; all of them where none does, for the error about that."""
    return [one for one in optimizers if train_any([one], model)] or list(optimizers)


def _of_an_epoch(batches: float, total: float, accumulate: int, epochs: float | None) -> int:
    if math.isfinite(batches):
        return math.ceil(batches / accumulate)
    if math.isfinite(total) and total > 0 and epochs:  # a stream: the recipe's epochs share the steps
        return math.ceil(total / epochs)
    raise ScheduleError(
        "the training data has no length, so an epoch has no number of steps: Trainer(limit_train_batches=...) or "
        "Trainer(max_steps=...) gives it one"
    )
