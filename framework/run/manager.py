"""The manager: what a user holds in hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor, nn

from paredown.framework.auxiliary.losses import Scaling
from paredown.framework.distributed.shards import outlive_gloo, sharded_in
from paredown.framework.errors import ParedownError, ScheduleError
from paredown.framework.model.forward import Forward
from paredown.framework.model.optimizers import wrappers_in
from paredown.framework.model.targets import unwrap
from paredown.framework.modifier.clock import Clock, steps_per_epoch_of
from paredown.framework.modifier.events import EventLog
from paredown.framework.modifier.training import Training
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.report.reporter import Reporter
from paredown.framework.run import restoring
from paredown.framework.run.checks import (
    check_model,
    check_module,
    check_one_shot,
    check_parts,
    check_scaler,
    check_teachers,
    optimizers_in,
    optimizers_of,
)
from paredown.framework.run.hooks import LoopHooks
from paredown.framework.run.plan import Plan, make_plan
from paredown.framework.run.schedule import Phase, Schedule, check_claims

__all__ = ["ScheduledManager"]

Optimizers = TypeVar("Optimizers")
Teacher = nn.Module | str | Path | Sequence[Any] | Mapping[str, Any]


class ScheduledManager:
    """Runs a recipe inside of a training loop that somebody else wrote.

    Example:
        >>> import torch
        >>> from paredown import Recipe, ScheduledManager
        >>> model = torch.nn.Linear(8, 8)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> recipe = {"recipe": 1, "run": {"epochs": 2}, "modifiers": {
        ...     "prune": {"type": "magnitude_pruning", "final_sparsity": 0.5}}}
        >>> manager = ScheduledManager(Recipe.load(recipe))
        >>> optimizer = manager.modify(model, optimizer, steps_per_epoch=5)
        >>> for _ in range(10):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(4, 8)).square().mean().backward()
        ...     _ = optimizer.step()
        >>> report = manager.finalize()
        >>> int((model.weight == 0).sum())
        32
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
        self.events = EventLog()
        self.training: Training | None = None
        self.schedule: Schedule | None = None
        self._hooks: LoopHooks | None = None
        self._reporter: Reporter | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._strict = True
        self._finalized = False
        self._prepared = False

    @classmethod
    def from_yaml(
        cls, source: Any, overrides: Sequence[str] = (), variables: Mapping[str, Any] | None = None
    ) -> ScheduledManager:
        """A manager for the recipe that `Recipe.load` reads from ``source``."""
        return cls(Recipe.load(source, overrides=overrides, variables=variables))

    # -- beginning -----------------------------------------------------------------------------------------------

    def prepare(
        self,
        model: nn.Module,
        *,
        data: Iterable[Any] | None = None,
        teacher: Teacher | None = None,
        example_inputs: Any = None,
        forward: Forward | None = None,
        optimizer: Any = None,
    ) -> nn.Module:
        """Make the structural changes that are due at 0, before the model is wrapped or an optimizer is built.

        After `load_state_dict` it gives the model the structure of that run instead, so that the run's weights fit
        in; they are loaded then, the optimizer is built, and `modify` goes on. Optional; returns the model. An
        ``optimizer`` that exists already follows the changes.

        Raises:
            ParedownError: anything that does not fit, before the model is changed.
        """
        self._refuse_second_run()
        check_model(model)
        training = self._new_training(model, data, teacher, example_inputs, forward)
        training.optimizers[:] = [] if optimizer is None else optimizers_in(optimizer)
        training.clock = Clock(1, self.recipe.run_epochs)
        schedule = self._checked_schedule(training)
        self.training, self.schedule = training, schedule
        self._reporter = Reporter(training, self.recipe)
        self._prepared = True
        if self._loaded is not None:
            self._rebuild(training, schedule, self._loaded)
        else:
            due = [name for name, modifier in self.recipe.modifiers.items() if modifier.structural]
            schedule.begin([name for name in due if not self.recipe.modifiers[name].start.value])
        return model

    def modify(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        steps_per_epoch: int | Sized,
        *,
        data: Iterable[Any] | None = None,
        teacher: Teacher | None = None,
        example_inputs: Any = None,
        forward: Forward | None = None,
        grad_scaler: Any = None,
        accumulate: int | None = None,
        strict: bool = True,
    ) -> Optimizers:
        """Hook the recipe into a training loop; what is due at time 0 happens now.

        Args:
            model: the module that is trained, also inside of DDP or ``torch.compile``.
            optimizer: the optimizer that trains it, or a list of them; the first one is the clock.
            steps_per_epoch: optimizer steps in an epoch, or the loader itself.
            data: batches for calibration.
            teacher: a module, a path, a list of these, or a mapping from modifier name to any of them; replaces the
                recipe's.
            example_inputs: arguments of the model, a tuple of positional ones or a dict of named ones: to measure
                with, and to trace the model's graph.
            forward: ``forward(model, batch)`` where ``model(batch[0])`` and ``model(**batch)`` do not fit.
            grad_scaler: the GradScaler that scales the loss, if one does.
            accumulate: over how many forwards the loss is divided and gradients are accumulated.
            strict: whether `finalize` raises where a target was missed, or warns.

        Returns:
            The very optimizer that was given.

        Raises:
            ParedownError: anything that does not fit, before the model is changed.
        """
        prepared = self._prepared_training(model)
        if accumulate is not None and (not isinstance(accumulate, int) or accumulate < 1):
            raise ScheduleError(f"accumulate={accumulate!r}: the number of forwards in an optimizer step, 1 or more")
        check_model(model)
        check_scaler(grad_scaler)
        optimizers = optimizers_of(model, optimizer)
        clock = Clock(steps_per_epoch_of(steps_per_epoch, accumulate), self.recipe.run_epochs)
        if prepared:
            self._hand_over(prepared, data, teacher, example_inputs, forward)
        training = prepared or self._new_training(model, data, teacher, example_inputs, forward)
        training.begin(model, optimizers, clock, Scaling(accumulate, grad_scaler))
        training.wrappers = wrappers_in(optimizer)
        if sharded_in(training.model.parameters()):
            outlive_gloo()
        phases = self.schedule.phases if prepared and self.schedule is not None else {}
        schedule = self._checked_schedule(training, phases)
        if prepared and self._loaded is not None:
            schedule.release()
        self._reporter = self._reporter or Reporter(training, self.recipe)
        self.training, self.schedule, self._strict, self._prepared = training, schedule, strict, False
        self._start(training, schedule, prepared is not None)
        return optimizer

    def apply(
        self,
        model: nn.Module,
        *,
        data: Iterable[Any] | None = None,
        teacher: Teacher | None = None,
        example_inputs: Any = None,
        forward: Forward | None = None,
    ) -> Report:
        """Run the recipe once, without training: each modifier, in window order, goes to its final state.

        Raises:
            ScheduleError: a modifier that cannot work without training, by name.
            ParedownError: anything that does not fit, before the model is changed.
        """
        self._refuse_second_run()
        check_model(model)
        check_one_shot(self.recipe.modifiers.values(), data)
        training = self._new_training(model, data, teacher, example_inputs, forward)
        schedule = self._checked_schedule(training)
        self._reporter = Reporter(training, self.recipe)
        self.training, self.schedule = training, schedule
        try:
            schedule.run_once()
            schedule.finalize()
        except BaseException:
            training.surgery.take_back()
            self.release()
            raise
        self._finalized = True
        return self.report()

    def plan(
        self,
        model: nn.Module,
        *,
        steps_per_epoch: int | Sized | None = None,
        example_inputs: Any = None,
        forward: Forward | None = None,
    ) -> Plan:
        """What the recipe will do to the model, without doing it."""
        check_module(model)
        training = Training(model)
        training.take(None, None, example_inputs, forward)
        if steps_per_epoch is not None:
            training.clock = Clock(steps_per_epoch_of(steps_per_epoch, None), self.recipe.run_epochs)
        return make_plan(self.recipe, Schedule(self.recipe.modifiers, training))

    # -- the loss ------------------------------------------------------------------------------------------------

    def loss(self, loss: Tensor) -> Tensor:
        """Door (b): the user's loss with the auxiliary losses, explicitly; unchanged where none is active."""
        auxiliary = None if self.training is None else self.training.auxiliary
        return loss if auxiliary is None else auxiliary.combine(loss)

    def wrap_criterion(self, criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Door (c): a criterion whose result goes through `loss`."""

        def wrapped(*args: Any, **kwargs: Any) -> Tensor:
            return self.loss(criterion(*args, **kwargs))

        return wrapped

    @property
    def last_losses(self) -> dict[str, float]:
        """The newest auxiliary losses by modifier name, "injected", and "total" through doors (b) and (c)."""
        return {} if self.training is None else self.training.last_losses()

    # -- ending --------------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether every modifier has reached its final state."""
        return self.schedule is not None and self.schedule.done

    def finalize(self) -> Report:
        """Audit, make permanent, take everything off, and tell what came out.

        Raises:
            ScheduleError: a modifier never ran or missed its target (a warning with ``strict=False``). Nothing is
                taken off then: the loop may go on.
        """
        training, schedule = self._running()
        schedule.check_parameters()
        try:
            late = schedule.catch_up()
        except ScheduleError as error:
            if self._strict:
                raise
            warnings.warn(str(error), stacklevel=2)
            late = []
        if late:
            skipped = 0 if training.clock is None else training.clock.skipped
            warnings.warn(
                f"{', '.join(late)}: the final update was made by finalize, since {skipped} optimizer steps were "
                "skipped by the gradient scaler",
                stacklevel=2,
            )
        schedule.finalize()
        self._finalized = True
        self._take_off()
        return self.report()

    def report(self, evaluate: Callable[[nn.Module], float] | None = None, *, dense: nn.Module | None = None) -> Report:
        """The model as it is now, beside what it was.

        Args:
            evaluate: gives the accuracy of a model.
            dense: the original model, where no copy was kept as a teacher: its file, latency and accuracy are
                measured beside the compressed model's.
        """
        if self._reporter is None:
            raise ParedownError("nothing to report yet: call modify or apply first")
        return self._reporter.report(evaluate, dense)

    def release(self) -> None:
        """Take everything off, whatever the state of the run; the model can be modified again.

        Weights stay as they are. After `finalize` or `apply` there is nothing to take off.
        """
        if self.schedule is not None and not self._finalized:
            self.schedule.release()
        self._take_off()
        self.training = self.schedule = self._reporter = None
        self._prepared = False

    def take_back(self) -> None:
        """Before the first step: release, and undo the changes of structure that were made at time 0 or loaded."""
        training, _ = self._running()
        training.surgery.take_back()
        self.release()

    def __enter__(self) -> ScheduledManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hooks is not None:
            self.release()

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def state_dict(self, teacher: bool = False) -> dict[str, Any]:
        """Tensors and plain values, for `torch.save`: recipe, clock, structure, and every modifier's state.

        Args:
            teacher: keep the initial teacher's tensors too, so that going on does not need the model it was made from.
        """
        training, schedule = self._running()
        schedule.check_parameters()
        return restoring.state_dict(self.recipe, training, schedule, teacher)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`: before `prepare` or `modify`, or after it and before the first step.

        Rebuilds the structure that was recorded, so that the model's and the optimizer's own state then fit.

        Raises:
            CheckpointError: it belongs to another recipe or teacher, or the run has begun already.
        """
        restoring.check(self.recipe, state)
        if self.training is None or self.schedule is None:
            self._loaded = state
            return
        if self._prepared:
            self._loaded = state
            self._rebuild(self.training, self.schedule, state)
        else:
            restoring.load_state_dict(self.recipe, self.training, self.schedule, state)
            self.training.renew_reducer()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Optimizer steps inside are not the training's: `torch.distributed.checkpoint` makes one to fill its state."""
        if self._hooks is None:
            yield
            return
        self._hooks.paused = True
        try:
            yield
        finally:
            self._hooks.paused = False

    # -- inside --------------------------------------------------------------------------------------------------

    def _new_training(
        self, model: nn.Module, data: Any, teacher: Any, example_inputs: Any, forward: Forward | None
    ) -> Training:
        training = Training(model, self.events)
        self._hand_over(training, data, teacher, example_inputs, forward)
        training.teachers.keep_initial(self.recipe.modifiers.values())
        return training

    def _hand_over(
        self, training: Training, data: Any, teacher: Any, example_inputs: Any, forward: Forward | None
    ) -> None:
        check_teachers(training.model, teacher, self.recipe.modifiers)
        training.take(data, teacher, example_inputs, forward)

    def _checked_schedule(self, training: Training, phases: Mapping[str, Phase] | None = None) -> Schedule:
        schedule = Schedule(self.recipe.modifiers, training)
        schedule.phases.update(phases or {})
        check_parts(schedule.waiting, training)
        check_claims(schedule.modifiers, training)
        for modifier in schedule.modifiers:
            modifier.check(training)
        return schedule

    def _start(self, training: Training, schedule: Schedule, prepared: bool) -> None:
        self._hooks = LoopHooks(training, schedule)
        try:
            self._hooks.attach()
            if self._loaded is None:
                schedule.begin()
            elif prepared:
                restoring.go_on(training, schedule, self._loaded)
            else:
                restoring.load_state_dict(self.recipe, training, schedule, self._loaded)
            self._loaded = None
            training.renew_reducer()
        except BaseException:
            training.surgery.take_back()
            self.release()
            raise

    def _rebuild(self, training: Training, schedule: Schedule, state: Mapping[str, Any]) -> None:
        """Of a prepared model: the structure and the forwards of a run whose weights are loaded before `modify`."""
        schedule.release()
        training.surgery.take_back()
        restoring.rebuild_structure(self.recipe, training, state)
        restoring.attach_kept(training, schedule, state)

    def _prepared_training(self, model: nn.Module) -> Training | None:
        self._forget_finished_run()
        if self.training is None or not self._prepared:
            self._refuse_second_run()
            return None
        if self.training.model is not unwrap(model):
            raise ParedownError("prepare was called with another model than modify")
        return self.training

    def _forget_finished_run(self) -> None:
        """A manager whose run was finalized can begin another one."""
        if self._finalized:
            self.training = self.schedule = self._reporter = None
            self.events.clear()
            self._finalized = False

    def _refuse_second_run(self) -> None:
        self._forget_finished_run()
        if self._hooks is not None:
            raise ParedownError("this manager has a run already: call finalize() or release() first, or make another")

    def _running(self) -> tuple[Training, Schedule]:
        if self.training is None or self.schedule is None:
            raise ParedownError("there is no run: call modify or apply first")
        return self.training, self.schedule

    def _take_off(self) -> None:
        if self._hooks is not None:
            self._hooks.training.renew_reducer()
            self._hooks.remove()
            self._hooks = None
