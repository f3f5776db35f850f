"""Opening and closing windows: which modifier is called when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.training import Training
from paredown.framework.storage.state import PerParameter, containers

__all__ = ["Phase", "Schedule", "check_claims", "in_order"]


NO_STEP = (
    "no step of the optimizer was seen: a copy of it (deepcopy, pickle) loses the hooks, and an optimizer that was "
    "built after modify never had them; step the one that modify was given"
)


class Phase(str, Enum):
    """Where a modifier stands in its life."""

    WAITING = "waiting"
    OPEN = "open"
    ENDED = "ended"


class Schedule:
    """The modifiers of a recipe on one training, in the order of their windows' starts, then of the recipe."""

    def __init__(self, modifiers: Mapping[str, Modifier], training: Training) -> None:
        self.training = training
        self.modifiers = in_order(modifiers, training)
        clock = training.clock
        self.windows = {} if clock is None else {modifier.name: clock.window(modifier) for modifier in self.modifiers}
        self.phases = {modifier.name: Phase.WAITING for modifier in self.modifiers}

    @property
    def done(self) -> bool:
        """Whether every modifier made its final update."""
        return all(phase is Phase.ENDED for phase in self.phases.values())

    @property
    def waiting(self) -> Sequence[Modifier]:
        """Those whose window did not open yet."""
        return [modifier for modifier in self.modifiers if self.phases[modifier.name] is Phase.WAITING]

    def begin(self, only: Iterable[str] | None = None) -> None:
        """Do what is due at time 0, of all modifiers or of those named."""
        chosen = self.phases.keys() if only is None else set(only)
        for modifier in self.modifiers:
            if modifier.name in chosen:
                self._advance(modifier)

    def after_step(self) -> None:
        """After an optimizer step: hold what is held, then do what is due."""
        self.hold()
        for modifier in self.modifiers:
            self._advance(modifier)

    def hold(self) -> None:
        """Let open and holding modifiers act on what an optimizer just changed."""
        for modifier in self.modifiers:
            phase = self.phases[modifier.name]
            if phase is Phase.OPEN or (phase is Phase.ENDED and modifier.holds):
                modifier.on_step(self.training, self.training.states[modifier.name])

    def run_once(self) -> None:
        """Every modifier to its final state, without training."""
        for modifier in self.modifiers:
            if self.phases[modifier.name] is Phase.WAITING:
                self._open(modifier)
                self._end(modifier)

    def catch_up(self) -> list[str]:
        """Make the final updates that are outstanding because a scaler skipped steps; give their modifiers' names.

        Raises:
            ScheduleError: the run stopped earlier than skipped steps explain, and a modifier never ran or missed its
                target; all of them are named.
        """
        owing = [modifier for modifier in self.modifiers if self.phases[modifier.name] is not Phase.ENDED]
        late, missed = self._split(owing)
        if missed and not self.training.step:
            missed.append(NO_STEP)
        if missed:
            raise ScheduleError("\n".join(missed))
        self.training.catching_up = True
        for modifier in late:
            if self.phases[modifier.name] is Phase.WAITING:
                self._open(modifier)
            self._end(modifier)
            self.training.record(modifier, "catch up")
        return [modifier.name for modifier in late]

    def check_parameters(self) -> None:
        """Refuse to go on where somebody replaced parameters that a state hangs on.

        Raises:
            ScheduleError: names the modifier and how many.
        """
        own = self.training.parameter_names()
        for modifier in self._opened():
            held = [p for container in containers(self.training.states[modifier.name]) for p in container]
            lost = sum(id(parameter) not in own for parameter in held)
            if lost:
                raise ScheduleError(
                    f"{modifier.name}: {lost} parameters that it holds are no longer in the model; something replaced "
                    "them (load_state_dict(..., assign=True), a new nn.Parameter). Change parameters in place, or "
                    "release the manager first"
                )

    def finalize(self) -> None:
        """Make permanent, and take off what is not part of the compressed model."""
        for modifier in self._opened():
            modifier.on_finalize(self.training, self.training.states[modifier.name])
            self.training.record(modifier, "finalize")
        self.detach()

    def attach(self, kept: bool = False) -> None:
        """Build what is not state, of every modifier whose window opened, or of those that stay in the model."""
        for modifier in self._opened():
            if modifier.kept or not kept:
                modifier.attach(self.training, self.training.states[modifier.name])

    def detach(self) -> None:
        """Take off what ``attach`` built."""
        for modifier in self._opened():
            modifier.detach(self.training, self.training.states[modifier.name])

    def release(self) -> None:
        """Take off everything, what would be part of the compressed model too."""
        for modifier in self._opened():
            modifier.withdraw(self.training, self.training.states[modifier.name])

    def _opened(self) -> Sequence[Modifier]:
        return [modifier for modifier in self.modifiers if self.phases[modifier.name] is not Phase.WAITING]

    def _advance(self, modifier: Modifier) -> None:
        step, window = self.training.step, self.windows[modifier.name]
        if self.phases[modifier.name] is Phase.WAITING and step >= window.start:
            self._open(modifier)
            self._update(modifier, final=step >= window.end)
        elif self.phases[modifier.name] is Phase.OPEN and (step >= window.end or window.on_grid(step)):
            self._update(modifier, final=step >= window.end)

    def _open(self, modifier: Modifier) -> None:
        self.training.inherited = self._take_over(modifier)
        state = modifier.on_start(self.training)
        self.training.states[modifier.name] = state
        self.phases[modifier.name] = Phase.OPEN
        modifier.attach(self.training, state)
        self.training.record(modifier, "start")

    def _update(self, modifier: Modifier, final: bool) -> None:
        if final:
            self._end(modifier)
        else:
            modifier.on_update(self.training, self.training.states[modifier.name])

    def _end(self, modifier: Modifier) -> None:
        state = self.training.states[modifier.name]
        self.training.ended.add(modifier.name)
        modifier.on_update(self.training, state)
        self.phases[modifier.name] = Phase.ENDED
        modifier.on_end(self.training, state)
        self.training.record(modifier, "end")

    def _take_over(self, modifier: Modifier) -> PerParameter:
        """What an earlier modifier with the same claim holds of the same parameters is the later one's now."""
        mine = {id(parameter): parameter for parameter in modifier.claimed(self.training)}
        taken = PerParameter()
        for earlier in self.modifiers:
            if earlier is modifier or not earlier.claims & modifier.claims:
                continue
            for container in containers(self.training.states.get(earlier.name)):
                if not container.handed_on:
                    continue
                for parameter in [parameter for parameter in container if id(parameter) in mine]:
                    taken[parameter] = container.pop(parameter)
        return taken

    def _split(self, owing: Sequence[Modifier]) -> tuple[list[Modifier], list[str]]:
        late: list[Modifier] = []
        missed: list[str] = []
        clock = self.training.clock
        assert clock is not None
        for modifier in owing:
            window = self.windows[modifier.name]
            if window.end - clock.steps <= clock.skipped:
                late.append(modifier)
                continue
            message = self._miss(modifier, window.start, window.end)
            if message:
                missed.append(message)
        return late, missed

    def _miss(self, modifier: Modifier, start: int, end: int) -> str | None:
        done = self.training.step
        if self.phases[modifier.name] is Phase.WAITING:
            wanted = modifier.unreached(self.training, None)
            why = f"; {wanted}" if wanted else ""
            return f"{modifier.name} never ran: it starts at step {start}, and the run stopped after {done}{why}"
        reached = modifier.unreached(self.training, self.training.states[modifier.name])
        return reached and f"{modifier.name}: its window ends at step {end}, the run stopped after {done}: {reached}"


def in_order(modifiers: Mapping[str, Modifier], training: Training) -> list[Modifier]:
    """By the windows' starts, then as the recipe has them. Raises ScheduleError for a window that does not fit."""
    if training.clock is not None:
        clock = training.clock
        return sorted(modifiers.values(), key=lambda modifier: clock.window(modifier).start)
    return sorted(modifiers.values(), key=_start_without_clock)


def _start_without_clock(modifier: Modifier) -> tuple[str, float]:
    """Without training, times of different units cannot be compared: what starts later than 0 goes unit by unit."""
    unit = modifier.start.unit if modifier.start.value else ""
    return ({"": "", "percent": "epochs"}.get(unit, unit), float(modifier.start.value))


def check_claims(modifiers: Sequence[Modifier], training: Training) -> None:
    """Refuse two modifiers that claim the same of the same parameter in overlapping windows.

    Raises:
        ScheduleError: names both, and the parameter.
    """
    names = training.parameter_names()
    for place, second in enumerate(modifiers):
        for first in modifiers[:place]:
            shared = first.claims & second.claims
            if not shared or not _overlap(first, second, training):
                continue
            held = {id(parameter) for parameter in first.claimed(training)}
            both = [names[id(parameter)] for parameter in second.claimed(training) if id(parameter) in held]
            if both:
                raise ScheduleError(
                    f"{first.name} and {second.name} both want the {', '.join(sorted(shared))} of {both[0]} "
                    f"({len(both)} parameters in all) in overlapping windows: move one window, or narrow the targets"
                )


def _overlap(first: Modifier, second: Modifier, training: Training) -> bool:
    if training.clock is None:
        return False  # one after the other
    a, b = training.clock.window(first), training.clock.window(second)
    return a.start == b.start or (a.start < b.end and b.start < a.end)
