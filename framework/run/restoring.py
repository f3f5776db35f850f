"""A run as tensors and plain values for a checkpoint, and restoring it from them."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from paredown.framework.auxiliary.teachers import frozen_copy
from paredown.framework.errors import CheckpointError
from paredown.framework.model.batches import device_of
from paredown.framework.model.surgery import Rebuild, Surgery
from paredown.framework.model.targets import named_parameters
from paredown.framework.modifier.registry import class_name
from paredown.framework.modifier.run import Run
from paredown.framework.recipe import Recipe
from paredown.framework.run.schedule import Phase, Schedule
from paredown.framework.storage.state import restore, to_plain

__all__ = [
    "FORMAT",
    "Rebuilt",
    "attach_permanent",
    "check",
    "fingerprint",
    "go_on",
    "is_state",
    "load_state_dict",
    "rebuild_model",
    "rebuild_structure",
    "rebuilding",
    "state_dict",
]

FORMAT = 1


def state_dict(recipe: Recipe, run: Run, schedule: Schedule, teacher: bool = False) -> dict[str, Any]:
    """The run: the recipe's text, the clock, what surgery did, and each modifier's phase and state."""
    initial = run.teachers.initial
    names = run.parameter_names()
    clock = run.clock
    return {
        "format": FORMAT,
        "recipe": recipe.to_yaml(),
        "clock": None if clock is None else to_plain(clock, names),
        "surgery": [dict(record) for record in run.surgery.records],
        "initial_teacher": None if initial is None else fingerprint(initial),
        "teacher": None if initial is None or not teacher else initial.state_dict(),
        "auxiliary_modules": run.modules.state_dict(),
        "batch_norms": schedule.recalibration.to_plain(),
        "events": [dict(event) for event in run.events],
        "modifiers": {
            modifier.name: {
                "type": modifier.type,
                "class": class_name(type(modifier)),
                "phase": schedule.phases[modifier.name].value,
                "state": to_plain(run.states.get(modifier.name), names),
            }
            for modifier in schedule.modifiers
        },
    }


def is_state(value: Any) -> bool:
    """Whether a value is the state of a run."""
    return isinstance(value, Mapping) and {"format", "recipe", "modifiers", "surgery"} <= set(value)


def check(recipe: Recipe, state: Mapping[str, Any]) -> None:
    """Whether a state belongs to a recipe: the same names and types; times and targets may have moved.

    Raises:
        CheckpointError: names what differs.
    """
    if not is_state(state):
        raise CheckpointError("this is no state of a ScheduledManager")
    if state["format"] != FORMAT:
        raise CheckpointError(f"the checkpoint has format {state['format']}; this paredown reads format {FORMAT}")
    saved = {name: entry["type"] for name, entry in state["modifiers"].items()}
    wanted = {name: modifier.type for name, modifier in recipe.modifiers.items()}
    if saved != wanted:
        differing = sorted(name for name in {*saved, *wanted} if saved.get(name) != wanted.get(name))
        differences = "; ".join(
            f"{name}: {saved.get(name, 'absent')} there, {wanted.get(name, 'absent')} here" for name in differing
        )
        raise CheckpointError(f"the checkpoint belongs to another recipe ({differences}); names and types must agree")


def load_state_dict(recipe: Recipe, run: Run, schedule: Schedule, state: Mapping[str, Any]) -> None:
    """Put a run back: structure, clock, states and what is attached to the model.

    Raises:
        CheckpointError: the run has begun, another teacher, or state that does not fit; the structure is then as it
            was before.
    """
    if run.step:
        raise CheckpointError(f"the run has taken {run.step} steps: load before the first one")
    schedule.release()
    if run.surgery.has_made(state["surgery"]):  # it is there already, and could not be made again once split
        _check_teacher(run, state)
    else:
        run.surgery.take_back()
        rebuild_structure(recipe, run, state)
    go_on(run, schedule, state)


def rebuild_structure(recipe: Recipe, run: Run, state: Mapping[str, Any]) -> None:
    """Give the model, as it was handed over, the structure of a run.

    Raises:
        CheckpointError: another teacher, or records that do not fit; the structure is then as it was before.
    """
    _check_teacher(run, state)
    run.rebuild_past(_past_models(recipe, run, state["surgery"]))
    with _taken_back_on_failure(run):
        run.surgery.replay(state["surgery"], rebuilding(recipe))


def attach_permanent(run: Run, schedule: Schedule, state: Mapping[str, Any]) -> None:
    """Put the forwards of a run that stay in the model on a model that has its structure.

    Raises:
        CheckpointError: state that does not fit; the structure is then as it was before.
    """
    with _taken_back_on_failure(run):
        _restore_states(run, schedule, state["modifiers"])
    schedule.attach(permanent=True)


def go_on(run: Run, schedule: Schedule, state: Mapping[str, Any]) -> None:
    """Put back the clock, the states and what is attached to a model that has a run's structure already.

    Raises:
        CheckpointError: state that does not fit.
    """
    with _taken_back_on_failure(run):
        _restore_states(run, schedule, state["modifiers"])
        run.modules.load_state_dict(state["auxiliary_modules"])
    if run.clock is not None and state["clock"] is not None:
        _restore_clock(run, state["clock"])
        _reopen(run, schedule)
    if state.get("batch_norms") is not None:
        schedule.recalibration.restore(state["batch_norms"])
    run.events.restore(state["events"])
    schedule.attach()
    run.rebuild_past(None)


@contextmanager
def _taken_back_on_failure(run: Run) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        run.surgery.take_back()
        raise (
            error if isinstance(error, CheckpointError) else CheckpointError(f"the state does not fit: {error}")
        ) from error


def rebuilding(recipe: Recipe) -> Rebuild:
    """What makes a replacing module from a modifier's name, the module and what was recorded."""
    return lambda name, module, spec: recipe.modifiers[name].rebuild(module, spec)


def _past_models(recipe: Recipe, run: Run, records: Sequence[Mapping[str, Any]]) -> Callable[[int], nn.Module] | None:
    """The model, that has its original structure now, after so many of the recorded changes; where one is needed."""
    if not any(modifier.copies_model for modifier in recipe.modifiers.values()):
        return None
    original = frozen_copy(run.model)

    def past(operations: int) -> nn.Module:
        model = copy.deepcopy(original)
        Surgery(model, [], {}).replay(records[:operations], rebuilding(recipe))
        return model.eval().requires_grad_(False)

    return past


@dataclass(frozen=True)
class Rebuilt:
    """A model with a run's structure and forwards: ``finish`` after its tensors are loaded, or ``take_back``."""

    finish: Callable[[], None]
    take_back: Callable[[], None]


def rebuild_model(recipe: Recipe, model: nn.Module, state: Mapping[str, Any]) -> Rebuilt:
    """Give a freshly built model the structure and the forwards of a run, for inference."""
    check(recipe, state)
    run = Run(model)
    schedule = Schedule({name: each for name, each in recipe.modifiers.items() if each.permanent}, run)
    load_state_dict(recipe, run, schedule, state)

    def take_back() -> None:
        schedule.release()
        run.surgery.take_back()

    return Rebuilt(schedule.finalize, take_back)


def fingerprint(model: nn.Module) -> str:
    """A hash of a module's tensors, names and values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_teacher(run: Run, state: Mapping[str, Any]) -> None:
    if state.get("teacher") is not None:
        run.teachers.load(state["teacher"])
    teacher, saved = run.teachers.initial, state.get("initial_teacher")
    if saved is not None and teacher is not None and fingerprint(teacher) != saved:
        raise CheckpointError(
            "the initial teacher of the checkpoint was another model: call modify with the model as it was handed over "
            "then (before its trained weights are loaded), or save with paredown.save(..., teacher=True)"
        )


def _restore_states(run: Run, schedule: Schedule, saved: Mapping[str, Any]) -> None:
    parameters = named_parameters(run.model)
    run.forget_states()
    for modifier in schedule.modifiers:
        entry = saved[modifier.name]
        schedule.phases[modifier.name] = Phase(entry["phase"])
        if schedule.phases[modifier.name] is Phase.WAITING:
            continue
        if schedule.phases[modifier.name] is Phase.ENDED:
            run.end(modifier.name)
        plain, kind = entry["state"], modifier.state_type
        state = None if plain is None or kind is None else restore(kind, plain, parameters, device_of(run.model))
        run.keep_state(modifier.name, state)


def _reopen(run: Run, schedule: Schedule) -> None:
    """A window that had ended is open again where the recipe has it end later now."""
    assert run.clock is not None
    for modifier in schedule.modifiers:
        ended = schedule.phases[modifier.name] is Phase.ENDED
        if ended and not modifier.acts_once and schedule.windows[modifier.name].end > run.clock.steps:
            schedule.phases[modifier.name] = Phase.OPEN
            run.end(modifier.name, False)


def _restore_clock(run: Run, saved: Mapping[str, Any]) -> None:
    clock = run.clock
    assert clock is not None
    clock.steps, clock.skipped = saved["steps"], saved["skipped"]
    if saved["steps_per_epoch"] != clock.steps_per_epoch:
        clock.steps = saved["steps"] * clock.steps_per_epoch // saved["steps_per_epoch"]
        warnings.warn(
            f"the checkpoint had {saved['steps_per_epoch']} steps an epoch and this run has {clock.steps_per_epoch}: "
            f"its step {saved['steps']} is counted as step {clock.steps}",
            stacklevel=3,
        )
