"""A manager's session: a run with its schedule, its reporter and its hooks, from the checks at the start to the end."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.run import Run
from paredown.framework.recipe import Recipe
from paredown.framework.report.reporter import Reporter
from paredown.framework.run.checks import check_parts
from paredown.framework.run.conforming import Conforming
from paredown.framework.run.hooks import LoopHooks
from paredown.framework.run.restoring import rebuilding
from paredown.framework.run.schedule import Schedule, check_claims

__all__ = ["Session"]


@dataclass
class Session:
    """What a manager has while it has a run.

    Attributes:
        run: what the modifiers share.
        schedule: when each of them acts.
        reporter: compares the model with what it was.
        conforming: brings other models in line.
        hooks: on the optimizers and the model; None where nothing is trained, and when the run is over.
        strict: whether a missed target is an error at the end, or a warning.
    """

    run: Run
    schedule: Schedule
    reporter: Reporter
    conforming: Conforming
    hooks: LoopHooks | None = None
    strict: bool = True

    @classmethod
    def checked(cls, recipe: Recipe, run: Run, prepared: Session | None = None) -> Session:
        """A session whose recipe fits the model; a prepared one goes on where it is, and is compared with what it was.

        Raises:
            ParedownError: something does not fit; the model is as it was.
        """
        schedule = Schedule(recipe.modifiers, run)
        if prepared is not None:
            schedule.phases.update(prepared.schedule.phases)
            schedule.recalibration = prepared.schedule.recalibration
        check_parts(schedule.waiting, schedule)
        check_claims(schedule)
        for modifier in schedule.modifiers:
            modifier.check(schedule.of(modifier))
        reporter = Reporter(run, recipe) if prepared is None else prepared.reporter
        return cls(run, schedule, reporter, Conforming(run.model, run.surgery.records, rebuilding(recipe)))

    def conform(self, other: nn.Module) -> None:
        """Bring another model to what the recipe made of this one."""
        self.conforming.conform(other, self.schedule.conforming())

    def attach_hooks(self) -> None:
        """Hook on to the loop."""
        self.hooks = LoopHooks(self.run, self.schedule)
        self.hooks.attach()

    def remove_hooks(self) -> None:
        """Take the hooks off, if there are any."""
        if self.hooks is not None:
            self.run.renew_reducer()
            self.hooks.remove()
            self.hooks = None

    def audit(self) -> None:
        """Ask every modifier whether it reached what it was to reach.

        Raises:
            ScheduleError: one did not (a warning, and a remark of the report, where not ``strict``).
        """
        missed = self.schedule.missed()
        if missed and self.strict:
            raise ScheduleError("\n".join(missed.values()))
        self._tell("\n".join(missed.values()), missed)

    def _tell(self, message: str, missed: Mapping[str, str]) -> None:
        """Warn, and remark in the report what was missed, by modifier."""
        for name, text in missed.items():
            self.run.record(name, "missed", remark=text)
        if message:
            warnings.warn(message, stacklevel=4)

    def catch_up(self) -> None:
        """Make final updates that skipped steps left outstanding.

        Raises:
            ScheduleError: a modifier never ran or missed its target (a warning where not ``strict``).
        """
        try:
            late = self.schedule.catch_up()
        except ScheduleError as error:
            if self.strict:
                raise
            self._tell(str(error), self.schedule.missed())
            return
        if late:
            skipped = 0 if self.run.clock is None else self.run.clock.skipped
            warnings.warn(
                f"{', '.join(late)}: the final update was made by finalize, since {skipped} optimizer steps were "
                "skipped by the gradient scaler",
                stacklevel=3,
            )
