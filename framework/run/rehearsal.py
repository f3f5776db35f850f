"""`rehearse`: the file that a recipe will make, foreseen on a copy of the model of which nothing is trained."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paredown.framework.engine.contract import Engine
from paredown.framework.engine.exporting import export
from paredown.framework.engine.plain import plain_copy
from paredown.framework.engine.registry import engines
from paredown.framework.engine.timing import latencies
from paredown.framework.errors import ExportError, first_line
from paredown.framework.model.batches import Batches, Inputs
from paredown.framework.model.forward import Forward, call
from paredown.framework.model.targets import unwrap
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.run import Run
from paredown.framework.recipe import Recipe
from paredown.framework.run.schedule import Schedule
from paredown.framework.storage.archive import zip_files

__all__ = ["ForeseenFile", "rehearse", "rehearsed"]

#: what a model is traced with, and how it is called
Example = tuple[Any, Forward | None]
#: of the two files, in turns
REPETITIONS = 20


@dataclass(frozen=True)
class ForeseenFile:
    """The files of a model and of the compressed one in an engine, as pairs (before, after).

    Attributes:
        engine: its name.
        bytes: of the files.
        zipped: bytes of archives of them.
        latency: CPU time of one run of the example inputs in one thread, in milliseconds; None where the engine's own
            time is not measured.
        left_out: the names of the modifiers that were left out: they leave nothing in a file, or need training.
        packed: bytes of the compressed file where zeros and few bits are stored as such; None: the engine reads no such
            file.
        zeros: what zeros are worth in time, by the name of an engine: of this one, and of others that are installed and
            skip them; empty where the weights have none.
        estimated: the names of those that change the model's structure after it was trained for a while, and may choose
            otherwise then.
    """

    engine: str
    bytes: tuple[int, int]
    zipped: tuple[int, int]
    latency: tuple[float, float] | None
    left_out: tuple[str, ...] = ()
    estimated: tuple[str, ...] = ()
    packed: int | None = None
    zeros: Mapping[str, str] = field(default_factory=dict)


def rehearse(recipe: Recipe, model: nn.Module, inputs: Inputs, engine: Engine, packed: bool = False) -> ForeseenFile:
    """Apply a recipe's modifiers to a copy, write that and the model for the engine, and measure both files.

    Bytes and speed follow from shapes and types, not from trained values: so the copy is calibrated on the example
    inputs where there is no data. What depends on values, such as which channels a global share takes, is what it
    would be for the model as it is now.

    Args:
        packed: whether the constants of the compressed model's file are packed.

    Raises:
        ExportError: it cannot be foreseen; the message says why.
    """
    kept = _permanent(recipe)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        try:
            example = _example(inputs)
            compressed = rehearsed(recipe, model, inputs, engine)
            measured = _measured(compressed, model, example, engine, Path(folder), packed)
            zeros = _zeros_pay(compressed, example, engine)
        except Exception as error:  # of any modifier that wants other data, and of any engine
            raise ExportError(f"its file is not foreseen: {first_line(error)}") from error
    left_out = tuple(name for name in recipe.modifiers if name not in kept)
    return replace(
        measured, left_out=left_out, estimated=tuple(name for name in kept if _later(kept[name])), zeros=zeros
    )


def rehearsed(recipe: Recipe, model: nn.Module, inputs: Inputs, engine: Engine | None) -> nn.Module:
    """A copy of a model to which the modifiers that leave something in a file were applied, without training."""
    return _applied(_permanent(recipe), model, inputs, _example(inputs), engine)


def _permanent(recipe: Recipe) -> dict[str, Modifier]:
    return {name: modifier for name, modifier in recipe.modifiers.items() if modifier.permanent}


def _later(modifier: Modifier) -> bool:
    """Whether a modifier changes the structure at another time than the beginning."""
    return modifier.structural and (not modifier.acts_once or modifier.start.value > 0)


def _applied(
    modifiers: Mapping[str, Modifier], model: nn.Module, inputs: Inputs, example: Example, engine: Engine | None
) -> nn.Module:
    """A copy of the model to which modifiers were applied."""
    run = Run(copy.deepcopy(unwrap(model)), engine=engine)
    if inputs.data is None:
        given, forward = example
        run.take([given], None, given, lambda model, batch: call(model, batch, forward))
    else:
        run.take(inputs.data, None, inputs.example_inputs, inputs.forward)
    schedule = Schedule(modifiers, run)
    schedule.run_once(lambda: _trained_forward(run.model, example))
    schedule.finalize()
    return run.model


def _trained_forward(model: nn.Module, example: Example) -> None:
    """One forward as in training, in the mode that the model comes back from."""
    given, forward = example
    before = model.training
    call(model.train(), given, forward)
    model.train(before)


def _measured(
    compressed: nn.Module, model: nn.Module, example: Example, engine: Engine, folder: Path, packed: bool
) -> ForeseenFile:
    """Bytes and milliseconds of the files of the model and of the compressed one."""
    given, forward = example
    before, after = (folder / f"{name}{engine.suffix}" for name in ("before", "after"))
    engine.write(plain_copy(model), given, before, forward=forward)
    export(compressed, given, after, engine=engine.name, forward=forward, repetitions=0, packed=packed)
    sizes = engine.bytes(before), engine.bytes(after)
    archives = tuple(zip_files(engine.files(path), folder / f"{path.name}.zip") for path in (before, after))
    smaller = None if packed else engine.packed_bytes(after)
    found = ForeseenFile(engine.name, sizes, (archives[0], archives[1]), None, packed=smaller)
    if engine.untimed is not None:
        return found
    times = latencies({"before": engine.open(before), "after": engine.open(after)}, given, REPETITIONS)
    return replace(found, latency=(times["before"].median, times["after"].median))


def _zeros_pay(model: nn.Module, example: Example, engine: Engine) -> dict[str, str]:
    """What zeros in weights are worth in time, by engine."""
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    if not any(bool((weight == 0).any()) for weight in weights):
        return {}
    skipping = (each for each in engines().values() if each.zeros_pay is not Engine.zeros_pay)
    others = [each() for each in skipping if each.name != engine.name and each.missing() is None]
    return {each.name: each.zeros_pay(model, *example) for each in (engine, *others)}


def _example(inputs: Inputs) -> Example:
    example = Batches(inputs, "plan").example()
    assert example is not None
    return example
