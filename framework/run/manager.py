"""`ScheduledManager`: hooks a recipe into a training loop, or applies it once without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor, nn

from paredown.framework.auxiliary.losses import Scaling
from paredown.framework.distributed.shards import outlive_gloo, sharded_in
from paredown.framework.engine.contract import Engine
from paredown.framework.engine.exporting import Exported, export
from paredown.framework.engine.registry import DEFAULT, engines
from paredown.framework.errors import ExportError, ParedownError, ScheduleError
from paredown.framework.model.batches import Batches
from paredown.framework.model.forward import Forward
from paredown.framework.model.optimizers import wrappers_in
from paredown.framework.model.targets import unwrap
from paredown.framework.modifier.clock import Clock, steps_per_epoch_of
from paredown.framework.modifier.events import EventLog
from paredown.framework.modifier.run import Run
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.run import restoring
from paredown.framework.run.checks import (
    check_model,
    check_module,
    check_one_shot,
    check_scaler,
    check_teachers,
    optimizers_in,
    optimizers_of,
)
from paredown.framework.run.hooks import LoopHooks, release_others
from paredown.framework.run.plan import Plan, make_plan
from paredown.framework.run.schedule import Schedule
from paredown.framework.run.session import Session
from paredown.framework.run.status import status_of

__all__ = ["ScheduledManager", "State"]

Optimizers = TypeVar("Optimizers")
Teacher = nn.Module | str | Path | Sequence[Any] | Mapping[str, Any]


class State(str, Enum):
    """How far a manager has come with its run."""

    NEW = "new"
    PREPARED = "prepared"
    RUNNING = "running"
    FINISHED = "finished"


class ScheduledManager:
    """Runs a recipe inside of a training loop that somebody else wrote.

    Its ``state`` is one of:

    .. code-block:: text

        new ──▶ prepare ──▶ prepared ──▶ modify ──▶ running ──▶ finalize ──▶ finished
         ├────────────────▶ modify ────────────────────▲                        ▲
         └────────────────▶ apply ──────────────────────────────────────────────┘

        finished ──▶ prepare, modify or apply: another run        any ──▶ release ──▶ new

    Attributes:
        recipe: what runs.
        events: what happened when, oldest first; trackers listen to it.
        state: new, prepared, running or finished.

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
        self.state = State.NEW
        self._session: Session | None = None
        self._loaded: Mapping[str, Any] | None = None

    @classmethod
    def from_yaml(
        cls, source: Any, overrides: Sequence[str] = (), variables: Mapping[str, Any] | None = None
    ) -> ScheduledManager:
        """A manager for the recipe that `Recipe.load` reads from ``source``."""
        return cls(Recipe.load(source, overrides=overrides, variables=variables))

    @property
    def run(self) -> Run | None:
        """The run that modifiers share: model, clock, states; None while there is none."""
        return None if self._session is None else self._session.run

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
        run = self._new_run(model, data, teacher, example_inputs, forward, Clock(1, self.recipe.run_epochs))
        run.use([] if optimizer is None else optimizers_in(optimizer))
        self._session = session = Session.checked(self.recipe, run)
        self.state = State.PREPARED
        if self._loaded is not None:
            self._rebuild(session, self._loaded)
        else:
            due = [name for name, modifier in self.recipe.modifiers.items() if modifier.structural]
            session.schedule.begin([name for name in due if not self.recipe.modifiers[name].start.value])
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
        prepared = self._prepared_session(model)
        if accumulate is not None and (not isinstance(accumulate, int) or accumulate < 1):
            raise ScheduleError(f"accumulate={accumulate!r}: the number of forwards in an optimizer step, 1 or more")
        check_model(model)
        check_scaler(grad_scaler)
        optimizers = optimizers_of(model, optimizer)
        clock = Clock(steps_per_epoch_of(steps_per_epoch, accumulate), self.recipe.run_epochs)
        if prepared is None:
            run = self._new_run(model, data, teacher, example_inputs, forward)
        else:
            run = prepared.run
            self._hand_over(run, data, teacher, example_inputs, forward)
        run.begin(model, optimizers, wrappers_in(optimizer), clock)
        run.declare_scaling(Scaling(accumulate, grad_scaler))
        if sharded_in(run.model.parameters()):
            outlive_gloo()
        session = Session.checked(self.recipe, run, prepared)
        session.strict = strict
        if prepared is not None and self._loaded is not None:
            session.schedule.release()
        self._session, self.state = session, State.RUNNING
        self._start(session, prepared is not None)
        return optimizer

    def apply(
        self,
        model: nn.Module,
        *,
        data: Iterable[Any] | None = None,
        teacher: Teacher | None = None,
        example_inputs: Any = None,
        forward: Forward | None = None,
        strict: bool = True,
    ) -> Report:
        """Run the recipe once, without training: each modifier, in window order, goes to its final state.

        Args:
            data, teacher, example_inputs, forward: as in `modify`.
            strict: whether a target that cannot be reached is an error, or a warning and a remark in the report.

        Raises:
            ScheduleError: a modifier that cannot work without training, by name; or a target that was not reached, with
                both numbers.
            ParedownError: anything that does not fit, before the model is changed.
        """
        self._refuse_second_run()
        check_model(model)
        check_one_shot(self.recipe.modifiers.values(), data)
        session = Session.checked(self.recipe, self._new_run(model, data, teacher, example_inputs, forward))
        self._session, self.state = session, State.RUNNING
        try:
            session.strict = strict
            session.schedule.run_once()
            session.audit()
            session.schedule.finalize()
        except BaseException:
            session.run.surgery.take_back()
            self.release()
            raise
        self.state = State.FINISHED
        return self.report()

    def plan(
        self,
        model: nn.Module,
        *,
        steps_per_epoch: int | Sized | None = None,
        example_inputs: Any = None,
        forward: Forward | None = None,
        data: Iterable[Any] | None = None,
        rehearse: bool = True,
        packed: bool = False,
    ) -> Plan:
        """What the recipe will do to the model, without doing it.

        Args:
            data: batches that a rehearsal is calibrated on; without them it is the example inputs.
            rehearse: where the recipe names an engine and there are example inputs or data: apply the recipe to a copy
                and write that, for the bytes and the speed of the file (`paredown.framework.run.rehearsal`).
            packed: that file with its constants packed, as ``export(packed=True)`` writes it.
        """
        check_module(model)
        clock = None
        if steps_per_epoch is not None:
            clock = Clock(steps_per_epoch_of(steps_per_epoch, None), self.recipe.run_epochs)
        run = Run(model, clock=clock, engine=self._engine)
        run.take(data, None, example_inputs, forward)
        return make_plan(self.recipe, Schedule(self.recipe.modifiers, run), rehearse, packed)

    # -- the loss ------------------------------------------------------------------------------------------------

    def loss(self, loss: Tensor) -> Tensor:
        """The user's loss with the auxiliary losses, added explicitly; unchanged where none is active."""
        link = None if self._session is None else self._session.run.losses.link
        return loss if link is None else link.combine(loss)

    def wrap_criterion(self, criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A criterion whose result goes through `loss`."""

        def wrapped(*args: Any, **kwargs: Any) -> Tensor:
            return self.loss(criterion(*args, **kwargs))

        return wrapped

    @property
    def last_losses(self) -> dict[str, float]:
        """The newest auxiliary losses by modifier name, "injected" (their weighted sum), and "total" where the loop's
        loss goes through `loss` or a wrapped criterion."""
        return {} if self._session is None else self._session.run.losses.last()

    # -- ending --------------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether every modifier has reached its final state."""
        return self._session is not None and self._session.schedule.done

    def finalize(self) -> Report:
        """`finish`, and return the report. Raises what `finish` raises."""
        self.finish()
        return self.report()

    def finish(self) -> None:
        """Audit, make permanent, and take everything off, without the measurements of a report.

        Raises:
            ScheduleError: a modifier never ran or missed its target (a warning with ``strict=False``). Nothing is
                taken off then: the loop may go on.
        """
        session = self._running()
        session.schedule.check_parameters()
        session.catch_up()
        session.schedule.finalize()
        self.state = State.FINISHED
        session.remove_hooks()

    def report(
        self,
        evaluate: Callable[[nn.Module], Any] | None = None,
        *,
        dense: nn.Module | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Report:
        """The model as it is now, beside what it was.

        Args:
            evaluate: returns a number for a model (a share of 1 is its accuracy), or a mapping from metrics to numbers.
            dense: the original model, where no copy was kept as a teacher: its file, latency and metrics are
                measured beside the compressed model's.
            metrics: which way each metric is better, and its unit, as of `paredown.Task`.

        Raises:
            ParedownError: there is no run, or ``evaluate`` returns something else.
        """
        if self._session is None:
            raise ParedownError("nothing to report yet: call modify or apply first")
        return self._session.reporter.report(evaluate, dense, metrics)

    def export(
        self, path: str | Path, *, engine: str | None = None, example_inputs: Any = None, **options: Any
    ) -> Exported:
        """Write the compressed model for an engine: `paredown.export` with what this run was given.

        Args:
            engine: its name. Default: the recipe's ``run.engine``, else onnxruntime.
            example_inputs: what to write it with. Default: those of the run, else the first batch of its data.
            options: of `paredown.export`; ``data`` is the run's, where nothing else is given.

        Raises:
            ExportError: see `paredown.export`; or there is nothing to call the model with.
        """
        if self._session is None:
            raise ParedownError("nothing to export yet: call modify or apply first")
        run = self._session.run
        batches = Batches(run.inputs, "export")
        found = (example_inputs, options.pop("forward", None)) if example_inputs is not None else batches.example()
        if found is None:
            raise ExportError("export runs the model: give example_inputs=(x,)")
        if batches.repeatable:
            options.setdefault("data", run.inputs.data)
        name = engine or self.recipe.engine or DEFAULT
        return export(run.model, found[0], path, engine=name, forward=found[1], **options)

    def conform(self, other: nn.Module) -> None:
        """Bring another model of the same kind to what the recipe made of this one: its zeros, its shapes, its
        quantizers. Its weights stay its own; those of a replaced layer begin as this model's.

        For an average of the weights (torch's ``AveragedModel``, timm's, Lightning's) beside a recipe: after each
        optimizer step, before the average is updated, and after `finalize`.

        Args:
            other: a copy of the model as it was handed over, or as it was when it was brought in line last; also inside
                of an ``AveragedModel``.

        Raises:
            ParedownError: it cannot be brought in line.
        """
        self._running().conform(other)

    def release(self, model: nn.Module | None = None) -> None:
        """Take everything off, whatever the state of the run; the model can be modified again.

        Weights stay as they are. After `finalize` or `apply` there is nothing to take off.

        Args:
            model: take off what other managers have on this one too, such as the manager of a notebook's cell that was
                run before, whose name is gone. Default: nothing but this manager's own.
        """
        if self._session is not None:
            if self.state is not State.FINISHED:
                self._session.schedule.release()
            self._session.remove_hooks()
        self._session, self.state = None, State.NEW
        if model is not None:
            release_others(unwrap(model))

    def take_back(self) -> None:
        """Before the first step: release, and undo the changes of structure that were made at time 0 or loaded."""
        self._running().run.surgery.take_back()
        self.release()

    def __str__(self) -> str:
        """How far the run has come, and what each modifier has reached."""
        schedule = None if self._session is None else self._session.schedule
        return status_of(self.recipe, self.state.value, self.run, schedule)

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
        session = self._running()
        session.schedule.check_parameters()
        session.schedule.put_right()
        return restoring.state_dict(self.recipe, session.run, session.schedule, teacher)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`: before `prepare` or `modify`, or after it and before the first step.

        Rebuilds the structure that was recorded, so that the model's and the optimizer's own state then fit.

        Raises:
            CheckpointError: it belongs to another recipe or teacher, or the run has begun already.
        """
        restoring.check(self.recipe, state)
        if self._session is None:
            self._loaded = state
        elif self.state is State.PREPARED:
            self._loaded = state
            self._rebuild(self._session, state)
        else:
            restoring.load_state_dict(self.recipe, self._session.run, self._session.schedule, state)
            self._session.schedule.note_writes()
            self._session.run.renew_reducer()

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

    @property
    def _engine(self) -> Engine | None:
        return None if self.recipe.engine is None else engines()[self.recipe.engine]()

    @property
    def _hooks(self) -> LoopHooks | None:
        return None if self._session is None else self._session.hooks

    def _new_run(
        self,
        model: nn.Module,
        data: Any,
        teacher: Any,
        example_inputs: Any,
        forward: Forward | None,
        clock: Clock | None = None,
    ) -> Run:
        run = Run(model, self.events, clock, self._engine)
        self._hand_over(run, data, teacher, example_inputs, forward)
        for name, modifier in self.recipe.modifiers.items():
            run.teachers.keep_initial(name, modifier.keeps_initial_model)
        return run

    def _hand_over(self, run: Run, data: Any, teacher: Any, example_inputs: Any, forward: Forward | None) -> None:
        check_teachers(run.model, teacher, self.recipe.modifiers)
        run.take(data, teacher, example_inputs, forward)

    def _start(self, session: Session, prepared: bool) -> None:
        try:
            session.attach_hooks()
            if self._loaded is None:
                session.schedule.begin()
            elif prepared:
                restoring.go_on(session.run, session.schedule, self._loaded)
            else:
                restoring.load_state_dict(self.recipe, session.run, session.schedule, self._loaded)
            self._loaded = None
            session.schedule.note_writes()
            session.run.renew_reducer()
        except BaseException:
            session.run.surgery.take_back()
            self.release()
            raise

    def _rebuild(self, session: Session, state: Mapping[str, Any]) -> None:
        """Of a prepared model: the structure and the forwards of a run whose weights are loaded before `modify`."""
        session.schedule.release()
        session.run.surgery.take_back()
        restoring.rebuild_structure(self.recipe, session.run, state)
        restoring.attach_permanent(session.run, session.schedule, state)

    def _prepared_session(self, model: nn.Module) -> Session | None:
        if self.state is not State.PREPARED or self._session is None:
            self._refuse_second_run()
            return None
        if self._session.run.model is not unwrap(model):
            raise ParedownError("prepare was called with another model than modify")
        return self._session

    def _refuse_second_run(self) -> None:
        """A manager whose run is finished can begin another one; one that is running cannot."""
        if self.state is State.FINISHED:
            self._session, self.state = None, State.NEW
            self.events.clear()
        if self.state is State.RUNNING:
            raise ParedownError("this manager has a run already: call finalize() or release() first, or make another")

    def _running(self) -> Session:
        if self._session is None:
            raise ParedownError("there is no run: call modify or apply first")
        return self._session
