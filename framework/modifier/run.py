"""A run: what all modifiers of a recipe share while it works on a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from paredown.framework.auxiliary.losses import Losses, Scaling
from paredown.framework.auxiliary.modules import AuxiliaryModules
from paredown.framework.auxiliary.teachers import Teachers, frozen_copy
from paredown.framework.distributed.data_parallel import data_parallel_around, rebuild_reducer, refusal_to_rebuild
from paredown.framework.distributed.shards import sharded_in
from paredown.framework.engine.contract import Engine
from paredown.framework.engine.layer_times import LayerTimes
from paredown.framework.model.batches import Inputs
from paredown.framework.model.forward import Forward
from paredown.framework.model.gradients import Gradients
from paredown.framework.model.links import Links, without_links
from paredown.framework.model.surgery import Surgery
from paredown.framework.model.targets import named_parameters, unwrap
from paredown.framework.modifier.clock import Clock
from paredown.framework.modifier.events import EventLog

__all__ = ["Run"]


class Run:
    """A recipe at work on one model: what all of its modifiers share.

    A modifier gets its own view of it, a `paredown.framework.modifier.training.Training`.

    Attributes:
        model: the user's own module, without wrappers.
        optimizers: those that train it; empty where nothing is trained.
        wrappers: what the user's loop has around them (Accelerate's), which an LR scheduler may hang on.
        clock: optimizer steps; None where nothing is trained (every modifier goes to its final state).
        inputs: batches for calibration, example inputs, and how the model is called with them.
        states: the modifiers' states by name.
        ended: the names of the modifiers that came to their final update.
        stepped: the optimizer whose step is being followed up.
        catching_up: whether final updates are made after the last step, whose gradients may be rejected ones.
        eval_mode_steps: those whose forwards were all in eval mode, where that left something idle.
        surgery: how structure is changed.
        links: by modifier name, what it has put around forwards.
        gradients: by modifier name, what it does to gradients.
        losses: the auxiliary losses.
        teachers: what the user gave as such, and the copy of the model as it was handed over.
        modules: modules beside the model, saved and where wanted trained with it.
        events: what happened when.
        engine: the program that the compressed model is for; None where the recipe names none.
        layer_times: how long layers take in it, as far as they were measured; None without an engine.
    """

    def __init__(
        self,
        model: nn.Module,
        events: EventLog | None = None,
        clock: Clock | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.model = unwrap(model)
        self.inputs = Inputs(model)
        self.optimizers: list[Optimizer] = []
        self.wrappers: list[Any] = []
        self.clock = clock
        self.engine = engine
        self.layer_times = None if engine is None else LayerTimes(engine)
        self.states: dict[str, Any] = {}
        self.events = EventLog() if events is None else events
        self.surgery = Surgery(self.model, self.optimizers, self.states, _no_surgery(model))
        self.ended: set[str] = set()
        self.stepped: Optimizer | None = None
        self.catching_up = False
        self.eval_mode_steps = 0
        self.links: defaultdict[str, Links] = defaultdict(Links)
        self.gradients: defaultdict[str, Gradients] = defaultdict(Gradients)
        self.modules = AuxiliaryModules(self.optimizers)
        self.losses = Losses(self.model, self.modules.trained)
        self.teachers = Teachers(self.model)
        self._past: Callable[[int], nn.Module] | None = None

    def take(self, data: Any, teacher: Any, example_inputs: Any, forward: Forward | None) -> None:
        """Keep what the user gave along; what comes later replaces what came before, None changes nothing."""
        self.inputs.update(data, example_inputs, forward)
        self.teachers.take(teacher)

    def begin(self, model: nn.Module, optimizers: Sequence[Optimizer], wrappers: Sequence[Any], clock: Clock) -> None:
        """Take over what a training loop brings: the model in its wrappers, optimizers in theirs, and the clock."""
        self.inputs.wrapped, self.clock = model, clock
        self.use(optimizers, wrappers)
        self.surgery.forbidden = _no_surgery(model)

    def use(self, optimizers: Sequence[Optimizer], wrappers: Sequence[Any] = ()) -> None:
        """Let these optimizers follow changes of structure."""
        self.optimizers[:] = optimizers
        self.wrappers[:] = wrappers

    def declare_scaling(self, scaling: Scaling) -> None:
        """Take over what the loop does to its loss after it was computed."""
        self.losses.scaling = scaling

    @property
    def step(self) -> int:
        """Optimizer steps that were taken."""
        return 0 if self.clock is None else self.clock.steps

    @property
    def epoch(self) -> float:
        """The same in epochs."""
        return 0.0 if self.clock is None else self.clock.epoch

    def follow(self, optimizer: Optimizer | None) -> None:
        """Note whose step is being followed up; None: it is over."""
        self.stepped = optimizer

    def idle_in_eval_mode(self) -> Sequence[str]:
        """The modifiers that do nothing, or a part of their work less, while the model is in eval mode."""
        idle = [owner for owner, links in self.links.items() if any(link.idle_in_eval_mode for link in links)]
        return list(dict.fromkeys([*self.losses.owners, *idle]))

    def catch_up(self) -> None:
        """Note that what is done from now on comes after the last step."""
        self.catching_up = True

    def keep_state(self, owner: str, state: Any) -> None:
        """Keep the state of a modifier, which opened its window or was restored."""
        self.states[owner] = state

    def forget_states(self) -> None:
        """Let all states go, before those of a checkpoint are restored."""
        self.states.clear()
        self.ended.clear()

    def end(self, owner: str, ended: bool = True) -> None:
        """Note that a modifier came to its final update, or is open again."""
        (self.ended.add if ended else self.ended.discard)(owner)

    def record(self, owner: str, event: str, **details: Any) -> None:
        """Write an event of a modifier into the log."""
        self.events.record(self.step, self.epoch, owner, event, **details)

    def parameter_names(self) -> dict[int, str]:
        """The plain names of the parameters by their ids."""
        return {id(parameter): name for name, parameter in named_parameters(self.model).items()}

    def renew_reducer(self) -> None:
        """Where parameters were changed, let DistributedDataParallel count them again; between two steps."""
        wrapper = data_parallel_around(self.model) if self.surgery.changed else None
        self.surgery.changed = False
        if wrapper is not None:
            rebuild_reducer(wrapper)

    def rebuild_past(self, past: Callable[[int], nn.Module] | None) -> None:
        """While a checkpoint is loaded, how to build the model as it was after so many changes of structure."""
        self._past = past

    def copy_as_of(self, operations: int) -> nn.Module:
        """A frozen copy of the model without the forwards that this run manages.

        Args:
            operations: changes of structure that it has: all so far, or, while a checkpoint is loaded, as many as there
                were when the copy was taken.
        """
        if self._past is not None:
            return self._past(operations)
        with without_links(self.model, [link for links in self.links.values() for link in links]):
            return frozen_copy(self.model)


def _no_surgery(model: nn.Module) -> str | None:
    """Why the structure of a model cannot change any more, or None."""
    wrapper = data_parallel_around(unwrap(model))
    reason = None if wrapper is None else refusal_to_rebuild(wrapper)
    if reason:
        return (
            f"DistributedDataParallel has counted the model's parameters, and cannot do so again ({reason}); call "
            "manager.prepare(model) before the model is wrapped"
        )
    if sharded_in(model.parameters()):
        return "its parameters are split among processes already; call manager.prepare(model) before fully_shard"
    return None
