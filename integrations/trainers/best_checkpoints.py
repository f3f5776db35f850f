"""Lightning's best checkpoints: none from before the recipe's targets are reached, when a model is dense and better."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["EarlyCheckpoints"]


class EarlyCheckpoints:
    """The scores of checkpoints that ``ModelCheckpoint(monitor=...)`` kept too early.

    They get the worst score that there is, so that any later checkpoint takes their place, and their file goes by
    Lightning's own rules.
    """

    def __init__(self) -> None:
        self.reached = False

    def begin(self, reached: bool) -> None:
        """Begin a training, in which the targets may be reached already: it goes on from a checkpoint."""
        self.reached = reached

    def forget(self, trainer: Any, is_done: Callable[[], bool]) -> None:
        """Before Lightning saves at a time: the scores of those saved while targets were not reached do not count."""
        if self.reached:
            return
        for saving in _with_scores(trainer):
            _forget(saving)
        self.reached = is_done()

    def forget_within_epoch(self, trainer: Any, is_done: Callable[[], bool]) -> None:
        """The same after a step, where checkpoints are saved by steps or time."""
        if not self.reached and any(_saves_within_epoch(saving) for saving in _with_scores(trainer)):
            self.forget(trainer, is_done)


def _with_scores(trainer: Any) -> Iterator[Any]:
    for saving in trainer.checkpoint_callbacks:
        if getattr(saving, "monitor", None) is not None and hasattr(saving, "best_k_models"):
            yield saving


def _saves_within_epoch(saving: Any) -> bool:
    return getattr(saving, "_every_n_train_steps", 0) > 0 or getattr(saving, "_train_time_interval", None) is not None


def _forget(saving: Any) -> None:
    worst = torch.tensor(math.inf if saving.mode == "min" else -math.inf)
    for path in saving.best_k_models:
        saving.best_k_models[path] = worst
    if saving.best_k_models:
        saving.best_model_score = saving.kth_value = worst
