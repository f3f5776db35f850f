"""The clock of a run: optimizer steps that really happened, and modifiers' windows in them."""

from __future__ import annotations

import math
from collections.abc import Sized
from dataclasses import dataclass
from fractions import Fraction

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.time import Span, Time, Window

__all__ = ["Clock", "steps_per_epoch_of"]


@dataclass
class Clock:
    """Counts optimizer steps.

    Attributes:
        steps_per_epoch: optimizer steps in an epoch.
        run_epochs: the length of the run in epochs (``run.epochs`` of the recipe).
        steps: steps that were taken.
        skipped: steps that a gradient scaler skipped.
    """

    steps_per_epoch: int
    run_epochs: float | None
    steps: int = 0
    skipped: int = 0

    @property
    def epoch(self) -> float:
        return self.steps / self.steps_per_epoch

    @property
    def run_steps(self) -> int | None:
        """The length of the run in steps."""
        return None if self.run_epochs is None else math.ceil(Fraction(str(self.run_epochs)) * self.steps_per_epoch)

    def window(self, span: Span) -> Window:
        """A span in optimizer steps.

        Raises:
            ScheduleError: it ends before it starts, or the run never reaches it.
        """
        first = self.in_steps(span.start)
        last = first if span.once else self._end(span)
        run = self.run_steps
        if last < first:
            raise ScheduleError(f"{span.name}: its end, step {last}, lies before its start, step {first}")
        if run is not None and last > run:
            raise ScheduleError(
                f"{span.name}: its window ends at step {math.ceil(last)}, but the run has only {run} steps "
                f"({self.run_epochs:g} epochs of {self.steps_per_epoch}): raise run.epochs or move the window"
            )
        every = (last - first) / 50 if span.every is None else self.in_steps(span.every)
        return Window(first, last, max(every, Fraction(1)))

    def in_steps(self, time: Time) -> Fraction:
        """A time in optimizer steps, exact.

        Raises:
            ScheduleError: percent of a run without ``run.epochs``.
        """
        try:
            return time.in_steps(self.steps_per_epoch, self.run_epochs)
        except ValueError as error:
            raise ScheduleError(str(error)) from None

    def _end(self, span: Span) -> Fraction:
        if span.end is not None:
            return self.in_steps(span.end)
        run = self.run_steps
        if run is None:
            raise ScheduleError(f"{span.name} ends with the run, and the recipe does not say when: add run.epochs")
        return Fraction(run)


def steps_per_epoch_of(given: int | Sized, accumulate: int | None) -> int:
    """Optimizer steps in an epoch: a number, or a loader's length divided by ``accumulate`` (rounded up).

    Raises:
        ScheduleError: no length, or not at least one step.
    """
    if isinstance(given, (bool, float, str)):
        raise ScheduleError(f"steps_per_epoch={given!r}: give the number of optimizer steps in an epoch, or the loader")
    if isinstance(given, int):
        steps = given
    else:
        try:
            steps = math.ceil(len(given) / (accumulate or 1))
        except TypeError:
            raise ScheduleError(
                f"a {type(given).__name__} has no length: give steps_per_epoch as a number of optimizer steps"
            ) from None
    if steps < 1:
        raise ScheduleError(f"steps_per_epoch={steps}: an epoch has at least one optimizer step")
    return steps
