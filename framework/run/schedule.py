"""The schedule: opens and closes the windows of modifiers, and calls them in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any

from torch import nn

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.clock import Clock
from paredown.framework.modifier.run import Run
from paredown.framework.modifier.time import Window
from paredown.framework.modifier.training import Training
from paredown.framework.run.outside_writes import OutsideWrites
from paredown.framework.run.recalibration import Recalibration
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
    """The modifiers of a recipe on one run, in the order of their windows' starts, then of the recipe.

    Attributes:
        run: what they share.
        modifiers: in order.
        windows: by name, in optimizer steps; none where nothing is trained.
        phases: by name.
        recalibration: of the model's batch-norms.
    """

    def __init__(self, modifiers: Mapping[str, Modifier], run: Run) -> None:
        self.run = run
        self.modifiers = in_order(modifiers, run.clock)
        clock = run.clock
        self.windows = {} if clock is None else {each.name: clock.window(each.span) for each in self.modifiers}
        self._trainings = {modifier.name: modifier.bind(run) for modifier in self.modifiers}
        for place, modifier in enumerate(self.modifiers):
            own = [(each, self._trainings[each.name]) for each in self.modifiers]
            self._trainings[modifier.name].meet(own[:place], own[place + 1 :])
        self.phases = {modifier.name: Phase.WAITING for modifier in self.modifiers}
        self.recalibration = Recalibration(run)
        self.writes = OutsideWrites()

    def of(self, modifier: Modifier) -> Training:
        """The run as one of the modifiers sees it."""
        return self._trainings[modifier.name]

    @property
    def done(self) -> bool:
        """Whether every modifier made its final update, reached what it was to reach, and still has it."""
        ended = all(phase is Phase.ENDED for phase in self.phases.values())
        return ended and not self._disturbed(self.writes.found()) and not any(map(self._short, self.modifiers))

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
        self._settle()

    def after_step(self) -> None:
        """After an optimizer step: hold what is held, then do what is due."""
        self._act_on_step()
        for modifier in self.modifiers:
            self._advance(modifier)
        self._settle()

    def hold(self) -> None:
        """Let open and holding modifiers act on what an optimizer just changed."""
        self._act_on_step()
        self._settle()

    def note_writes(self) -> None:
        """From now on, what is written into parameters that are held is somebody else's."""
        self.writes.note(self.held())

    def put_right(self, everything: bool = False) -> None:
        """Where somebody else wrote into parameters since the last step, bring back what is held of them.

        Args:
            everything: look at all that is held, also at what does not show that it was written.
        """
        written = self.held() if everything else self.writes.found()
        if not written:
            return
        for modifier, own, count in self._disturbed(written):
            modifier.put_right(self.of(modifier), self.run.states[modifier.name], own)
            self.of(modifier).record("put right", values=count, parameters=len(own))
        self.note_writes()

    def held(self) -> Sequence[nn.Parameter]:
        """The parameters of which something is held, each once."""
        held = (modifier.held(self.of(modifier), self.run.states[modifier.name]) for modifier in self._holding())
        return list({id(parameter): parameter for each in held for parameter in each}.values())

    def _act_on_step(self) -> None:
        for modifier in self._holding():
            modifier.on_step(self.of(modifier), self.run.states[modifier.name])

    def _settle(self) -> None:
        """Let open and holding modifiers act on what all of them have left."""
        for modifier in self._holding():
            modifier.settle(self.of(modifier), self.run.states[modifier.name])
        self.note_writes()

    def conforming(self) -> list[tuple[nn.Parameter, Callable[[nn.Parameter], None]]]:
        """The parameters of which something is held, with what brings another model's counterpart to it."""
        found: list[tuple[nn.Parameter, Callable[[nn.Parameter], None]]] = []
        for modifier in self._holding():
            training, state = self.of(modifier), self.run.states[modifier.name]
            found += [
                (parameter, partial(modifier.conform, training, state, parameter))
                for parameter in modifier.held(training, state)
            ]
        return found

    def _holding(self) -> list[Modifier]:
        """Those that act on every step: open ones, and those that hold what they made."""
        return [modifier for modifier in self.modifiers if self._is_holding(modifier)]

    def _is_holding(self, modifier: Modifier) -> bool:
        phase = self.phases[modifier.name]
        return phase is Phase.OPEN or (phase is Phase.ENDED and modifier.holds)

    def _disturbed(self, written: Sequence[nn.Parameter]) -> list[tuple[Modifier, list[nn.Parameter], int]]:
        """Who holds some of these parameters, which, and how many values are not as they are held."""
        ids = {id(parameter) for parameter in written}
        found = []
        for modifier in self._holding() if written else ():
            training, state = self.of(modifier), self.run.states[modifier.name]
            own = [parameter for parameter in modifier.held(training, state) if id(parameter) in ids]
            count = modifier.disturbed(training, state, own) if own else 0
            found += [(modifier, own, count)] if count else []
        return found

    def run_once(self, forward: Callable[[], object] | None = None) -> None:
        """Every modifier to its final state, without training.

        Args:
            forward: a training forward of the model, for modifiers that see in training what they go by.
        """
        for modifier in self.modifiers:
            if self.phases[modifier.name] is Phase.WAITING:
                self._open(modifier)
                if forward is not None and modifier.needs_training:
                    forward()
                self._end(modifier)
                self._settle()

    def missed(self) -> dict[str, str]:
        """What modifiers that made their final update did not reach, in words, by name."""
        ended = [modifier for modifier in self.modifiers if self.phases[modifier.name] is Phase.ENDED]
        return {each.name: f"{each.name} ({each.type}): {short}" for each in ended if (short := self._short(each))}

    def catch_up(self) -> list[str]:
        """Make the final updates that are outstanding because a scaler skipped steps; give their modifiers' names.

        Raises:
            ScheduleError: no step was seen, or the run stopped earlier than skipped steps explain, and a modifier never
                ran; or one missed its target; all of them are named.
        """
        owing = [modifier for modifier in self.modifiers if self.phases[modifier.name] is not Phase.ENDED]
        late, missed = self._split(owing)
        missed += self.missed().values()
        clock = self.run.clock
        if clock is not None and not clock.steps and not clock.skipped:
            missed.append(NO_STEP)
        if missed:
            raise ScheduleError("\n".join(missed))
        self.run.catch_up()
        for modifier in late:
            if self.phases[modifier.name] is Phase.WAITING:
                self._open(modifier)
            self._end(modifier)
            self.of(modifier).record("catch up")
        self._settle()
        return [modifier.name for modifier in late]

    def check_parameters(self) -> None:
        """Refuse to go on where somebody replaced parameters that a state hangs on.

        Raises:
            ScheduleError: names the modifier and how many.
        """
        own = self.run.parameter_names()
        for modifier in self._opened():
            held = [p for container in containers(self.run.states[modifier.name]) for p in container]
            lost = sum(id(parameter) not in own for parameter in held)
            if lost:
                raise ScheduleError(
                    f"{modifier.name}: {lost} parameters that it holds are no longer in the model; something replaced "
                    "them (load_state_dict(..., assign=True), a new nn.Parameter). Change parameters in place, or "
                    "release the manager first"
                )

    def finalize(self) -> None:
        """Make permanent, and take off what is not part of the compressed model."""
        self.put_right(everything=True)
        for modifier in self._opened():
            modifier.on_finalize(self.of(modifier), self.run.states[modifier.name])
            self.of(modifier).record("finalize")
        self._finish_batch_norms()
        self.detach()

    def _finish_batch_norms(self) -> None:
        asking = [modifier for modifier in self._opened() if modifier.recalibrates is not False]
        self.recalibration.finish(self._opened(), self.of(asking[-1]) if asking else None)

    def attach(self, permanent: bool = False) -> None:
        """Build what is not state, of every modifier whose window opened, or of those that are permanent."""
        for modifier in self._opened():
            if modifier.permanent or not permanent:
                modifier.attach(self.of(modifier), self.run.states[modifier.name])

    def detach(self) -> None:
        """Take off what ``attach`` built."""
        for modifier in self._opened():
            modifier.detach(self.of(modifier), self.run.states[modifier.name])

    def release(self) -> None:
        """Take off everything, what would be part of the compressed model too."""
        for modifier in self._opened():
            modifier.release(self.of(modifier), self.run.states[modifier.name])

    def _opened(self) -> Sequence[Modifier]:
        return [modifier for modifier in self.modifiers if self.phases[modifier.name] is not Phase.WAITING]

    def _advance(self, modifier: Modifier) -> None:
        step, window = self.run.step, self.windows[modifier.name]
        if self.phases[modifier.name] is Phase.WAITING and step >= window.start:
            self._open(modifier)
            self._update(modifier, final=step >= window.end)
        elif self.phases[modifier.name] is Phase.OPEN and (step >= window.end or window.on_grid(step)):
            self._update(modifier, final=step >= window.end)

    def _open(self, modifier: Modifier) -> None:
        training = self.of(modifier)
        training.inherit(self._take_over(modifier))
        state = modifier.on_start(training)
        self.run.keep_state(modifier.name, state)
        self.phases[modifier.name] = Phase.OPEN
        modifier.attach(training, state)
        training.record("start")

    def _update(self, modifier: Modifier, final: bool) -> None:
        if final:
            self._end(modifier)
        else:
            self._act(modifier)

    def _end(self, modifier: Modifier) -> None:
        training, state = self.of(modifier), self.run.states[modifier.name]
        self.run.end(modifier.name)
        self._act(modifier)
        self.phases[modifier.name] = Phase.ENDED
        modifier.on_end(training, state)
        training.record("end")

    def _act(self, modifier: Modifier) -> None:
        training = self.of(modifier)
        with self.recalibration.around(modifier, training):
            modifier.on_update(training, self.run.states[modifier.name])

    def _take_over(self, modifier: Modifier) -> PerParameter:
        """What an earlier modifier with the same claim holds of the same parameters is the later one's now."""
        mine = {id(parameter): parameter for parameter in modifier.claimed(self.of(modifier))}
        taken = PerParameter()
        for earlier in self.modifiers:
            if earlier is modifier or not earlier.claims & modifier.claims:
                continue
            for container in containers(self.run.states.get(earlier.name)):
                if not container.handed_on:
                    continue
                for parameter in [parameter for parameter in container if id(parameter) in mine]:
                    taken[parameter] = container.pop(parameter)
        return taken

    def _split(self, owing: Sequence[Modifier]) -> tuple[list[Modifier], list[str]]:
        late: list[Modifier] = []
        missed: list[str] = []
        clock = self.run.clock
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

    def _short(self, modifier: Modifier) -> str | None:
        """What a modifier owes, and its state where its window was entered."""
        return modifier.unreached(self.of(modifier), self.run.states.get(modifier.name))

    def _miss(self, modifier: Modifier, start: int, end: int) -> str | None:
        done = self.run.step
        if self.phases[modifier.name] is Phase.WAITING:
            wanted = self._short(modifier)
            why = f"; {wanted}" if wanted else ""
            return f"{modifier.name} never ran: it starts at step {start}, and the run stopped after {done}{why}"
        reached = self._short(modifier)
        return reached and f"{modifier.name}: its window ends at step {end}, the run stopped after {done}: {reached}"


def in_order(modifiers: Mapping[str, Modifier], clock: Clock | None) -> list[Modifier]:
    """By the windows' starts, then by whom they act after, then as the recipe has them.

    Raises:
        ScheduleError: a window does not fit.
    """
    starts: dict[str, Any] = {
        name: _start_without_clock(each) if clock is None else clock.window(each.span).start
        for name, each in modifiers.items()
    }
    waiting, ordered = dict(sorted(modifiers.items(), key=lambda pair: starts[pair[0]])), []
    while waiting:
        first = starts[next(iter(waiting))]
        due = [name for name in waiting if starts[name] == first]
        free = [name for name in due if not any(waiting[name].after & waiting[other].claims for other in due)]
        ordered.append(waiting.pop((free or due)[0]))
    return ordered


def _start_without_clock(modifier: Modifier) -> tuple[str, float]:
    """Without training, times of different units cannot be compared: what starts later than 0 goes unit by unit."""
    unit = modifier.start.unit if modifier.start.value else ""
    return ({"": "", "percent": "epochs"}.get(unit, unit), float(modifier.start.value))


def check_claims(schedule: Schedule) -> None:
    """Refuse two modifiers that claim the same of the same parameter in overlapping windows; without training, those of
    which the second objects to what the first leaves.

    Raises:
        ScheduleError: names both, and the parameter or the reason.
    """
    names = schedule.run.parameter_names()
    for place, second in enumerate(schedule.modifiers):
        for first in schedule.modifiers[:place]:
            _refuse_to_follow(schedule, first, second)
            shared = first.claims & second.claims
            if not shared or not _overlap(schedule.windows.get(first.name), schedule.windows.get(second.name)):
                continue
            held = {id(parameter) for parameter in first.claimed(schedule.of(first))}
            both = [names[id(each)] for each in second.claimed(schedule.of(second)) if id(each) in held]
            if both:
                raise ScheduleError(
                    f"{first.name} and {second.name} both want the {', '.join(sorted(shared))} of {both[0]} "
                    f"({len(both)} parameters in all) in overlapping windows: move one window, or narrow the targets"
                )


def _refuse_to_follow(schedule: Schedule, first: Modifier, second: Modifier) -> None:
    if schedule.run.clock is None:
        reason = second.objection(schedule.of(second), first, schedule.of(first))
        if reason is not None:
            raise ScheduleError(
                f"{second.name} ({second.type}) cannot follow {first.name} ({first.type}): {reason}; "
                "nothing was changed"
            )


def _overlap(a: Window | None, b: Window | None) -> bool:
    if a is None or b is None:
        return False  # one after the other
    return a.start == b.start or (a.start < b.end and b.start < a.end)
