"""How many optimizer steps Lightning's Trainer makes, and with which optimizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from paredown.framework.errors import ScheduleError
from paredown.framework.model.optimizers import train_any

__all__ = ["accumulation_of", "optimizers_of", "steps_of"]


def accumulation_of(trainer: Any) -> int:
    """Over how many batches Lightning accumulates gradients, also by its GradientAccumulationScheduler.

    Raises:
        ScheduleError: the number changes between epochs.
    """
    counts = {int(trainer.accumulate_grad_batches)}
    for callback in trainer.callbacks:
        scheduled = getattr(callback, "scheduling", None)
        if isinstance(scheduled, dict) and hasattr(callback, "get_accumulate_grad_batches"):
            last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else math.inf
            counts = {int(count) for epoch, count in scheduled.items() if epoch < last}
    if len(counts) > 1:
        raise ScheduleError(
            f"the GradientAccumulationScheduler accumulates over {', '.join(map(str, sorted(counts)))} batches in "
            "different epochs, so that epochs have different numbers of optimizer steps: give it one number, or use "
            "Trainer(accumulate_grad_batches=...)"
        )
    return counts.pop()


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
        total = _total_steps(trainer, accumulate)
        return _of_an_epoch(trainer.num_training_batches, total, accumulate, epochs), total
    total = math.inf if trainer.max_steps == -1 else trainer.max_steps / len(trainer.optimizers)
    steps = _of_an_epoch(trainer.num_training_batches, total, accumulate, epochs)
    return steps, total if trainer.max_epochs in (None, -1) else min(total, trainer.max_epochs * steps)


def optimizers_of(model: nn.Module, optimizers: Sequence[Any]) -> list[Any]:
    """Those that train the model; all of them where none does, for the error about that."""
    return [one for one in optimizers if train_any([one], model)] or list(optimizers)


def _total_steps(trainer: Any, accumulate: int) -> float:
    """Lightning's own count, where a callback has not set the accumulation yet too."""
    before = trainer.accumulate_grad_batches
    trainer.accumulate_grad_batches = accumulate
    try:
        return float(trainer.estimated_stepping_batches)
    finally:
        trainer.accumulate_grad_batches = before


def _of_an_epoch(batches: float, total: float, accumulate: int, epochs: float | None) -> int:
    if math.isfinite(batches):
        return math.ceil(batches / accumulate)
    if math.isfinite(total) and total > 0 and epochs:  # a stream: the recipe's epochs share the steps
        return math.ceil(total / epochs)
    raise ScheduleError(
        "the training data has no length, so an epoch has no number of steps: Trainer(limit_train_batches=...) or "
        "Trainer(max_steps=...) gives it one"
    )
