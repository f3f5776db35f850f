"""A run as one modifier sees it: all that the modifier may reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from paredown.framework.auxiliary.losses import OwnLoss
from paredown.framework.auxiliary.modules import OwnModules
from paredown.framework.auxiliary.teachers import OwnTeachers
from paredown.framework.engine.contract import Engine
from paredown.framework.engine.layer_times import LayerTimes
from paredown.framework.engine.profile import ANY_ENGINE, Profile
from paredown.framework.engine.timing import measure_in
from paredown.framework.errors import TargetError
from paredown.framework.measure.latency import Latency
from paredown.framework.model.batches import Batches, device_of
from paredown.framework.model.forward import Forward
from paredown.framework.model.gradients import Gradients
from paredown.framework.model.links import Links
from paredown.framework.model.optimizers import trained_by
from paredown.framework.model.surgery import Surgery
from paredown.framework.model.targets import Matches, Selection, match
from paredown.framework.modifier.clock import Clock
from paredown.framework.modifier.run import Run
from paredown.framework.modifier.time import Span, Time, Window
from paredown.framework.storage.state import PerParameter

if TYPE_CHECKING:
    from paredown.framework.modifier.base import Modifier

__all__ = ["Training"]


class Training:
    """A run as one modifier sees it, and all that the modifier may reach.

    Everything here is bound to the modifier: its name stands in the events and errors, its targets are matched, its
    links and losses are kept apart from those of others.

    Attributes:
        name: of the modifier in its recipe.
        label: the name with the type, for errors.
        model: the user's own module, without wrappers.
        data: batches for calibration and example inputs, and the model on them.
        links: what the modifier has put around forwards.
        losses: its term of the loss.
        modules: its modules beside the model, saved and where wanted trained with it.
        teachers: its teachers.
        inherited: in ``on_start``, what it takes over from earlier modifiers with the same claim.
        earlier, later: the recipe's other modifiers in the order in which they act, and the run as each sees it.
    """

    def __init__(self, run: Run, span: Span, selection: Selection | None = None, kind: str = "") -> None:
        self._run = run
        self._span = span
        self._selection = Selection() if selection is None else selection
        self.name = span.name
        self.model = run.model
        self.label = f"{span.name} ({kind})" if kind else span.name
        self.data = Batches(run.inputs, self.label)
        self.losses = OwnLoss(run.losses, self.name)
        self.modules = OwnModules(run.modules, self.name)
        self.teachers = OwnTeachers(run.teachers, self.name)
        self.inherited = PerParameter()
        self.earlier: Sequence[tuple[Modifier, Training]] = ()
        self.later: Sequence[tuple[Modifier, Training]] = ()

    def meet(self, earlier: Sequence[tuple[Modifier, Training]], later: Sequence[tuple[Modifier, Training]]) -> None:
        """Make the recipe's other modifiers known."""
        self.earlier, self.later = earlier, later

    def inherit(self, taken: PerParameter) -> None:
        """Hand over what earlier modifiers with the same claim held."""
        self.inherited = taken

    # -- the model -----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Of the model's first parameter or buffer."""
        return device_of(self.model)

    @property
    def engine(self) -> Engine | None:
        """The program that the compressed model is for; None where the recipe names none."""
        return self._run.engine

    @property
    def profile(self) -> Profile:
        """What that engine computes; where none is named, what most of them do."""
        return ANY_ENGINE if self.engine is None else self.engine.profile

    def latency(
        self, models: Mapping[str, nn.Module], example_inputs: Any, forward: Forward | None = None, **settings: int
    ) -> dict[str, Latency]:
        """CPU time of one forward of each model, in turns, in the engine, or in torch where none is named: see
        `paredown.framework.engine.timing.measure_in`."""
        return measure_in(self.engine, models, example_inputs, forward, **settings)

    @property
    def layer_times(self) -> LayerTimes | None:
        """How long single layers take in the engine; None where the recipe names none."""
        return self._run.layer_times

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """Those that train the model; none where nothing is trained."""
        return self._run.optimizers

    @property
    def wrappers(self) -> Sequence[Any]:
        """What the user's loop has around the optimizers."""
        return self._run.wrappers

    @property
    def surgery(self) -> Surgery:
        """How structure is changed."""
        return self._run.surgery

    @property
    def links(self) -> Links:
        """What the modifier has put around forwards."""
        return self._run.links[self.name]

    @property
    def gradients(self) -> Gradients:
        """What the modifier does to gradients."""
        return self._run.gradients[self.name]

    def held_by_others(self, claim: str) -> set[int]:
        """The ids of the parameters of which other modifiers hold now what this word means."""
        holding = [(other, view) for other, view in (*self.earlier, *self.later) if claim in other.claims]
        opened = [(other, view, self.states[other.name]) for other, view in holding if other.name in self.states]
        return {id(parameter) for other, view, state in opened for parameter in other.held(view, state)}

    @property
    def states(self) -> Mapping[str, Any]:
        """The states of all modifiers by name, in the order in which their windows opened."""
        return self._run.states

    def matches(self) -> Matches:
        """What the modifier's targets mean in the model as it is now. Raises TargetError."""
        chosen = self._selection
        try:
            return match(self.model, chosen.targets, chosen.ignore, chosen.kinds)
        except TargetError as error:
            raise TargetError(f"{self.name}: {error}") from None

    def targets(self) -> dict[str, nn.Module]:
        """The modules that the modifier treats, by name, in the model's order. Raises TargetError."""
        return self.matches().modules

    def copy_as_of(self, operations: int) -> nn.Module:
        """A frozen copy of the model as it was after so many changes of structure: see `Run.copy_as_of`."""
        return self._run.copy_as_of(operations)

    # -- time ----------------------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock | None:
        """Optimizer steps; None where nothing is trained (the modifier goes to its final state)."""
        return self._run.clock

    @property
    def step(self) -> int:
        """Optimizer steps that were taken."""
        return self._run.step

    @property
    def window(self) -> Window | None:
        """The modifier's window in optimizer steps; None where nothing is trained."""
        return None if self.clock is None else self.clock.window(self._span)

    @property
    def progress(self) -> float:
        """Share of the window that lies behind, in [0, 1]; 1 at the final update, whenever that is."""
        window = None if self.ended else self.window
        return 1.0 if window is None else window.progress(self.step)

    @property
    def ended(self) -> bool:
        """Whether the modifier has come to its final update."""
        return self.name in self._run.ended

    @property
    def entered(self) -> bool:
        """Whether the modifier's window has opened."""
        return self.name in self._run.states

    @property
    def catching_up(self) -> bool:
        """Whether final updates are made after the last step, whose gradients may be rejected ones."""
        return self._run.catching_up

    @property
    def eval_mode_steps(self) -> int:
        """Optimizer steps that were trained in eval mode, where that left a modifier idle."""
        return self._run.eval_mode_steps

    def reached(self, time: Time) -> bool:
        """Whether a point in time lies behind; always where nothing is trained."""
        return self.clock is None or self.clock.steps >= self.clock.in_steps(time)

    def just_stepped(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, nn.Parameter]:
        """Those parameters that the optimizer trains whose step is being followed up; all where there is one alone."""
        own = {id(parameter) for parameter in self.just_stepped_among(parameters.values())}
        return {name: parameter for name, parameter in parameters.items() if id(parameter) in own}

    def just_stepped_among(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """The same of a list: between somebody's forward and backward only these may be written."""
        if self._run.stepped is None or len(self.optimizers) < 2:
            return list(parameters)
        own = trained_by([self._run.stepped])
        return [parameter for parameter in parameters if id(parameter) in own]

    # -- the event log -------------------------------------------------------------------------------------------

    def record(self, event: str, **details: Any) -> None:
        """Write an event into the log."""
        self._run.record(self.name, event, **details)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Record by layer why it is left alone, each reason once."""
        known = {(event.get("layer"), event.get("reason")) for event in self._run.events}
        for layer, reason in reasons.items():
            if (layer, reason) not in known:
                self.record("left alone", layer=layer, reason=reason)
