"""What a run is: the one object that passes through the house, and all that a modifier may reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from paredown.framework.auxiliary.losses import AuxiliaryLosses, Scaling, Term
from paredown.framework.auxiliary.modules import Extras
from paredown.framework.auxiliary.teachers import Teachers, frozen_copy
from paredown.framework.distributed.data_parallel import data_parallel_around, rebuild_reducer, refusal_to_rebuild
from paredown.framework.distributed.shards import sharded_in
from paredown.framework.errors import ScheduleError, TargetError
from paredown.framework.model.forward import Forward, evaluating
from paredown.framework.model.graph.fusion import Graph, export_graph
from paredown.framework.model.links import Link, add_link, remove_links, without_links
from paredown.framework.model.surgery import Surgery
from paredown.framework.model.targets import Matches, match, named_parameters, unwrap
from paredown.framework.modifier.base import Modifier, TargetedModifier
from paredown.framework.modifier.clock import Clock
from paredown.framework.modifier.events import EventLog
from paredown.framework.storage.state import PerParameter

__all__ = ["Training", "samples_in"]


class Training:
    """A model, its optimizers, the time, and what the user gave along.

    Attributes:
        model: the user's own module, without wrappers.
        optimizers: those that train it; empty where nothing is trained.
        wrappers: what the user's loop has around them (Accelerate's), which an LR scheduler may hang on.
        clock: optimizer steps; None where nothing is trained (every modifier goes to its final state).
        data: batches for calibration, or None.
        scaling: what the user declared to do to the loss.
        states: the modifiers' states by name.
        inherited: in ``on_start``, what a modifier takes over from earlier ones with the same claim.
        ended: the names of the modifiers that came to their final update.
        stepped: the optimizer whose step is being followed up.
        catching_up: whether final updates are made after the last step, whose gradients may be rejected ones.
        surgery: how structure is changed.
        teachers: what the user gave as such, and the copy of the model as it was handed over.
        extras: modules beside the model, saved and where wanted trained with it.
        past: while a checkpoint is loaded, the model as it was after so many changes of structure.
        events: what happened when.
    """

    def __init__(self, model: nn.Module, events: EventLog | None = None) -> None:
        self.handed = model
        self.model = unwrap(model)
        self.optimizers: list[Optimizer] = []
        self.wrappers: list[Any] = []
        self.clock: Clock | None = None
        self.data: Iterable[Any] | None = None
        self.scaling = Scaling()
        self.states: dict[str, Any] = {}
        self.events = EventLog() if events is None else events
        self.surgery = Surgery(self.model, self.optimizers, self.states, _no_surgery(model))
        self.ended: set[str] = set()
        self.stepped: Optimizer | None = None
        self.catching_up = False
        self.inherited = PerParameter()
        self.teachers = Teachers(self.model)
        self.extras = Extras(self.optimizers)
        self.past: Callable[[int], nn.Module] | None = None
        self._example_inputs: tuple[Any, ...] | Mapping[str, Any] | None = None
        self._forward: Forward | None = None
        self._links: list[tuple[str, nn.Module, Link]] = []
        self._terms: dict[str, Term] = {}
        self.auxiliary: AuxiliaryLosses | None = None
        self._last_losses: dict[str, float] = {}

    def take(self, data: Any, teacher: Any, example_inputs: Any, forward: Forward | None) -> None:
        """Keep what the user gave along; what comes later replaces what came before, None changes nothing."""
        self.data = self.data if data is None else data
        self.teachers.take(teacher)
        self._example_inputs = self._example_inputs if example_inputs is None else _as_arguments(example_inputs)
        self._forward = self._forward if forward is None else forward

    def begin(self, handed: nn.Module, optimizers: Sequence[Optimizer], clock: Clock, scaling: Scaling) -> None:
        """Take over what a training loop brings."""
        self.handed, self.clock, self.scaling = handed, clock, scaling
        self.optimizers[:] = optimizers
        self.surgery.forbidden = _no_surgery(handed)

    def renew_reducer(self) -> None:
        """Where parameters were changed, let DistributedDataParallel count them again; after every step, and outside
        of one."""
        wrapper = data_parallel_around(self.model) if self.surgery.changed else None
        self.surgery.changed = False
        if wrapper is not None:
            rebuild_reducer(wrapper)

    @property
    def device(self) -> torch.device:
        """Of the model's first parameter or buffer."""
        tensors: Iterator[Tensor] = (t for group in (self.model.parameters(), self.model.buffers()) for t in group)
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @property
    def example_inputs(self) -> tuple[Any, ...] | Mapping[str, Any] | None:
        """Arguments of the model, positional ones or a mapping of named ones, on its device; None where none were
        given."""
        if isinstance(self._example_inputs, Mapping):
            return {name: _to(value, self.device) for name, value in self._example_inputs.items()}
        return None if self._example_inputs is None else tuple(_to(self._example_inputs, self.device))

    @property
    def step(self) -> int:
        return 0 if self.clock is None else self.clock.steps

    def progress(self, modifier: Modifier) -> float:
        """Share of the modifier's window that lies behind, in [0, 1]; 1 at its final update, whenever that is."""
        if self.clock is None or modifier.name in self.ended:
            return 1.0
        return self.clock.window(modifier).progress(self.clock.steps)

    def reached(self, time: Any) -> bool:
        """Whether a point in time lies behind; always where nothing is trained."""
        return self.clock is None or self.clock.steps >= self.clock.in_steps(time)

    def matches(self, modifier: TargetedModifier) -> Matches:
        """What the modifier's targets mean in the model as it is now. Raises TargetError."""
        try:
            return match(self.model, modifier.targets, modifier.ignore, modifier.kinds)
        except TargetError as error:
            raise TargetError(f"{modifier.name}: {error}") from None

    def targets(self, modifier: TargetedModifier) -> dict[str, nn.Module]:
        """The modules that the modifier means, by name, in the model's order."""
        return self.matches(modifier).modules

    def just_stepped(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, nn.Parameter]:
        """Those parameters that the optimizer trains whose step is being followed up; all where there is one alone."""
        if self.stepped is None or len(self.optimizers) < 2:
            return parameters
        own = {id(parameter) for group in self.stepped.param_groups for parameter in group["params"]}
        return {name: parameter for name, parameter in parameters.items() if id(parameter) in own}

    def parameter_names(self) -> dict[int, str]:
        """The plain names of the parameters by their ids."""
        return {id(parameter): name for name, parameter in named_parameters(self.model).items()}

    def record(self, modifier: Modifier, event: str, **details: Any) -> None:
        """Write an event into the log."""
        epoch = 0.0 if self.clock is None else self.clock.epoch
        self.events.record(self.step, epoch, modifier.name, event, **details)

    # -- forwards ------------------------------------------------------------------------------------------------

    def manage(self, modifier: Modifier, module: nn.Module, link: Link) -> None:
        """Put a link around the forward of a module."""
        add_link(module, link)
        self._links.append((modifier.name, module, link))

    def managed(self, modifier: Modifier) -> list[Link]:
        """The links of the modifier."""
        return [link for name, _, link in self._links if name == modifier.name]

    def unmanage(self, modifier: Modifier, only: Callable[[Link], bool] | None = None) -> None:
        """Take the modifier's links off: all of them, the permanent ones too, or those that ``only`` picks."""
        gone = [entry for entry in self._links if entry[0] == modifier.name and (only is None or only(entry[2]))]
        for _, module, link in gone:
            remove_links(module, [link])
        self._links = [entry for entry in self._links if entry not in gone]

    def copy_as_of(self, operations: int) -> nn.Module:
        """A frozen copy of the model without the forwards that this run manages.

        Args:
            operations: changes of structure that it has: all so far, or, while a checkpoint is loaded, as many as there
                were when the copy was taken.
        """
        if self.past is not None:
            return self.past(operations)
        with without_links(self.model, [link for _, _, link in self._links]):
            return frozen_copy(self.model)

    def call(self, batch: Any) -> Any:
        """The model on a batch: ``model(batch[0])`` for a tuple or list, ``model(**batch)`` for a mapping."""
        batch = _to(batch, self.device)
        try:
            if self._forward is not None:
                return self._forward(self.handed, batch)
            if isinstance(batch, Mapping):
                return self.handed(**batch)
            return self.handed(batch[0] if isinstance(batch, (tuple, list)) else batch)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ScheduleError(
                f"the model could not be run on a batch of data, a {type(batch).__name__}: {error}; where "
                "model(batch[0]) and model(**batch) do not fit, give forward=, a function of the model and the batch"
            ) from error

    def run_data(self, modifier: Modifier, samples: int | None = None) -> None:
        """Run the model in eval mode, without gradients, on the batches of ``data``, or on the first ``samples`` of it.

        Raises:
            ScheduleError: there is no data, or it gives no batch.
        """
        with evaluating(self.model):
            for batch in self.batches(modifier, samples):
                self.call(batch)

    def batches(self, modifier: Modifier, samples: int | None = None) -> Iterator[Any]:
        """The batches of ``data``; with ``samples``, as many as hold that many (the first dimension counts them).

        Raises:
            ScheduleError: there is no data, or it gives no batch.
        """
        if self.data is None:
            raise ScheduleError(f"{modifier.name} needs batches to calibrate on: modify(..., data=loader)")
        seen = 0
        for batch in self.data:
            yield batch
            seen += samples_in(batch)
            if samples is not None and seen >= samples:
                return
        if not seen:
            raise ScheduleError(
                f"{modifier.name}: data gave no batch to calibrate on; a generator gives them only once"
            )

    @property
    def has_example(self) -> bool:
        """Whether `example` gives something, as far as can be told without asking the data for a batch."""
        return self.example_inputs is not None or (self.data is not None and not isinstance(self.data, Iterator))

    def example(self) -> tuple[Any, Forward | None] | None:
        """What to trace and compare the model with, and how it is called: the example inputs, or else the first batch
        of ``data``; None without either."""
        if self.example_inputs is not None:
            return self.example_inputs, None
        if self.data is None or not self.has_example:  # an iterator would lose its first batch
            return None
        batch = _to(next(iter(self.data), None), self.device)
        if batch is None or self._forward is not None:
            return None if batch is None else (batch, self._forward)
        return batch if isinstance(batch, (Mapping, Tensor)) else (batch[0],), None

    def graph(self) -> Graph | None:
        """The model's graph for what `example` gives; None without it.

        Raises:
            TargetError: the model cannot be traced.
        """
        example = self.example()
        return None if example is None else export_graph(self.model, *example)

    # -- auxiliary losses ----------------------------------------------------------------------------------------

    def add_loss(self, modifier: Modifier, term: Term) -> None:
        """Add a term to the loss from the next forward on.

        Raises:
            ScheduleError: the weights of all terms are above 1 in sum.
        """
        self._rebuild_losses({**self._terms, modifier.name: term})

    def remove_loss(self, modifier: Modifier) -> None:
        """Take the modifier's term out of the loss."""
        if modifier.name in self._terms:
            self._rebuild_losses({name: term for name, term in self._terms.items() if name != modifier.name})

    def number(self, value: float) -> Tensor:
        """A 0-d tensor on the model's device, for a number that moves: a compiled graph reads it when it runs."""
        return torch.full((), value, dtype=torch.float32, device=self.device)

    def set_loss(self, modifier: Modifier, weight: float, settings: Mapping[str, float]) -> None:
        """Give the modifier's term another weight and other settings from the next forward on.

        Raises:
            ScheduleError: the weights of all terms are above 1 in sum.
        """
        term = self._terms.get(modifier.name)
        if term is not None and self.auxiliary is not None:
            term.weight = weight
            for name, value in settings.items():
                term.settings[name].data.fill_(value)
            self.auxiliary.reweigh()

    def last_losses(self) -> dict[str, float]:
        """The newest auxiliary losses, also after their windows have ended."""
        if self.auxiliary is not None:
            self._last_losses = {**self._last_losses, **self.auxiliary.last_losses()}
        return self._last_losses

    def _rebuild_losses(self, terms: dict[str, Term]) -> None:
        self.last_losses()
        link = AuxiliaryLosses(terms, self.scaling, self.device) if terms else None
        if self.auxiliary is not None:
            remove_links(self.model, [self.auxiliary])
        if link is not None:
            add_link(self.model, link)
        self._terms, self.auxiliary = terms, link


def samples_in(batch: Any) -> int:
    """How many samples a batch holds: the first dimension of its first tensor; 1 where there is none."""
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
    return tensors[0].shape[0] if tensors else 1


def _as_arguments(example_inputs: Any) -> tuple[Any, ...] | Mapping[str, Any] | None:
    if example_inputs is None or isinstance(example_inputs, (tuple, Mapping)):
        return example_inputs
    return tuple(example_inputs) if isinstance(example_inputs, list) else (example_inputs,)


def _no_surgery(model: nn.Module) -> str | None:
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


def _to(batch: Any, device: torch.device) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)
