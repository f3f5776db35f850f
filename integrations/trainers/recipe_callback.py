"""What callbacks of trainers share: a manager, what the user gave it, and a recipe no longer than the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.clock import Clock
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.run.manager import ScheduledManager

__all__ = ["RecipeCallback"]


class RecipeCallback:
    """Base of a trainer's callback.

    Args:
        recipe: whatever `Recipe.load` reads; ``overrides`` and ``variables`` go with it.
        save_teacher: keep the initial teacher's tensors in the checkpoints; else resuming needs a model that is built
            with the same weights.
        strict: whether the end of the training raises where a target was missed, or warns.
        data, teacher, example_inputs, forward: as of `ScheduledManager.modify`.

    Attributes:
        manager: the `ScheduledManager`.
        report: what came out, after the training.

    Raises:
        RecipeError: the recipe does not hold.
    """

    def __init__(
        self,
        recipe: Any,
        *,
        overrides: Sequence[str] = (),
        variables: Mapping[str, Any] | None = None,
        save_teacher: bool = False,
        strict: bool = True,
        data: Iterable[Any] | None = None,
        teacher: Any = None,
        example_inputs: Any = None,
        forward: Any = None,
    ) -> None:
        self.manager = ScheduledManager.from_yaml(recipe, overrides, variables)
        self.report: Report | None = None
        self.save_teacher, self.strict = save_teacher, strict
        self._given = {"data": data, "teacher": teacher, "example_inputs": example_inputs, "forward": forward}

    def begin(self, model: nn.Module, optimizer: Any, steps_per_epoch: int, total_steps: float, **how: Any) -> None:
        """Hook the recipe in, unless it is longer than the training; what is refused leaves the model as it was."""
        try:
            _check_length(self.manager.recipe, steps_per_epoch, total_steps)
            self.manager.modify(model, optimizer, steps_per_epoch, strict=self.strict, **how)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Take everything off; before the first step, undo what was prepared too."""
        if self.manager.run is not None and self.report is None:
            self.manager.take_back()


def _check_length(recipe: Recipe, steps_per_epoch: int, total_steps: float) -> None:
    """Refuse a recipe that is longer than the training.

    Args:
        recipe: one without ``run.epochs`` has no length, and fits.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: optimizer steps that the trainer will make, infinity where it has no end.

    Raises:
        ScheduleError: names both lengths.
    """
    wanted, epochs = Clock(steps_per_epoch, recipe.run_epochs).run_steps, total_steps / steps_per_epoch
    if wanted is not None and wanted > total_steps:
        fitting = int(epochs * 10_000) / 10_000  # rounded down: a longer one would be refused again
        raise ScheduleError(
            f"the recipe {recipe.name!r} takes {recipe.run_epochs:g} epochs ({wanted} optimizer steps), and the "
            f"trainer stops after {epochs:g} ({total_steps:g} steps): train longer, or load it with "
            f"run.epochs={fitting:.10g}"
        )
