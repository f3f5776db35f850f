"""The sensitivity of a task's model: train it, treat one layer at a time, and measure the harm of each setting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from paredown.framework.calibration.sensitivity import Loss, Sensitivity, scan
from paredown.framework.errors import ScheduleError
from paredown.framework.experiments.seeds import train_dense
from paredown.framework.experiments.settings_recipe import SettingsRecipe
from paredown.framework.experiments.task import Task
from paredown.framework.experiments.training_loop import Progress
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.fields import Trial
from paredown.framework.modifier.run import Run
from paredown.framework.recipe import Recipe

__all__ = ["scan_task"]


def scan_task(
    task: Task,
    recipe: Recipe,
    samples: int,
    by_loss: bool,
    progress: Callable[[int], Progress],
    settings: SettingsRecipe | None = None,
) -> tuple[list[Sensitivity], dict[str, Any]]:
    """Scan the trained model of a task at the settings of the recipe's first modifier that has some.

    Args:
        samples: how much of the training data is used.
        by_loss: measure the rise of the task's loss instead of the change of the output.
        progress: returns, for a seed, the function that is called after each step.
        settings: a recipe to be written with the settings that reach its target.

    Returns:
        what was measured, and what was written, in plain values by "recipe".

    Raises:
        ScheduleError: no modifier has settings to try.
        ArgumentError: the recipe with settings cannot be written.
    """
    advance = progress(task.seeds[0])
    run = Run(train_dense(task, task.seeds[0], advance))
    run.take(task.train_loader, None, task.example_inputs, None)
    modifier, trials = _first_with_trials(run, recipe.modifiers.values())
    training = modifier.bind(run)
    if settings is not None:
        settings.fields(training, modifier, {trial.layer: None for trial in trials})
    loss = _loss_of(task) if by_loss else None
    found = scan(training, trials, samples, lambda done, total: advance("scan", done, total, {}), loss)
    return found, {} if settings is None else {"recipe": settings.write(recipe, training, modifier, found)}


def _first_with_trials(run: Run, modifiers: Iterable[Modifier]) -> tuple[Modifier, Sequence[Trial]]:
    modifiers = list(modifiers)
    for modifier in modifiers:
        trials = modifier.trials(modifier.bind(run))
        if trials:
            return modifier, trials
    raise ScheduleError(f"none of {', '.join(each.name for each in modifiers)} has settings to try")


def _loss_of(task: Task) -> Loss:
    return task.loss_of
