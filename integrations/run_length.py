"""A recipe and a trainer's own idea of how long it trains."""

from __future__ import annotations

import math

from paredown.framework.errors import ScheduleError
from paredown.framework.recipe import Recipe

__all__ = ["check_length"]


def check_length(recipe: Recipe, steps_per_epoch: int, total_steps: float) -> None:
    """Refuse a recipe that is longer than the training.

    Args:
        recipe: one without ``run.epochs`` has no length, and fits.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: optimizer steps that the trainer will make, infinity where it has no end.

    Raises:
        ScheduleError: names both lengths.
    """
    if recipe.run_epochs is None:
        return
    wanted, epochs = math.floor(recipe.run_epochs * steps_per_epoch), total_steps / steps_per_epoch
    if wanted > total_steps:
        raise ScheduleError(
            f"the recipe {recipe.name!r} takes {recipe.run_epochs:g} epochs ({wanted} optimizer steps), and the "
            f"trainer stops after {epochs:g} ({total_steps:g} steps): train longer, or load it with "
            f"run.epochs={epochs:g}"
        )
