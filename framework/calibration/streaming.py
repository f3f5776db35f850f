"""Streaming: running a model block by block on calibration data, in the memory of one block.

Where a model is a chain of blocks (the layers of a transformer, the members of an `nn.Sequential`), each block is a
unit: its inputs are kept, its layers are looked at and changed, and what it then gives out are the next block's
inputs. Layers outside of the chain are units of their own, for which the whole model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from paredown.framework.errors import ScheduleError
from paredown.framework.model.links import Link
from paredown.framework.model.targets import named_modules
from paredown.framework.model.temporary import evaluating
from paredown.framework.modifier.training import Training

__all__ = ["InputTaker", "Unit", "run_unit", "stream"]


@dataclass(frozen=True)
class Unit:
    """Layers that are changed together, and how to run them on all of the data: ``run(before_each_batch)``."""

    layers: tuple[str, ...]
    run: Callable[[], object]


class InputTaker(Link):
    """Hands a layer's input (its first tensor) to ``take`` before the layer runs."""

    def __init__(self, take: Callable[[Tensor], object]) -> None:
        self.take = take

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        self.take(args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor)))
        return call(module, *args, **kwargs)


def run_unit(training: Training, unit: Unit, take: Callable[[str, nn.Module, Tensor], object]) -> None:
    """Run a unit on all of the data, and hand each layer's name, module and input to ``take``."""
    modules = named_modules(training.model)
    takers = [(modules[name], InputTaker(partial(take, name, modules[name]))) for name in unit.layers]
    with training.links.during(takers):
        unit.run()


def stream(training: Training, layers: Collection[str], samples: int | None) -> Iterator[Unit]:
    """The units that hold ``layers``, in the model's order; change a unit's layers before asking for the next one.

    Args:
        training: with data.
        layers: names of the layers of interest.
        samples: how much of the data is used; None: all.
    """
    batches = list(training.data.first(samples))
    model = training.model
    with evaluating(model):
        chain = _find_chain(training, layers, batches)
        inside = {name for block in chain for name in layers if _below(name, block)}
        streamed = False
        for name in [name for name in named_modules(model) if name in layers]:
            if name not in inside:
                yield Unit((name,), lambda: _run_all(training, batches))
            elif not streamed:
                streamed = True
                yield from _stream_chain(training, chain, layers, batches)


@dataclass
class _Call:
    """The arguments of one block for one batch; the first is kept apart."""

    rest: tuple[Any, ...]
    named: dict[str, Any]


class _StopError(Exception):
    """Ends a forward whose rest nobody needs."""


@dataclass(eq=False)
class _Recording(Link):
    """Writes down what a block is called with, and what it gives.

    With ``like``, a result of the block, the block does not run: its input is handed on in that form.
    """

    like: Any = None
    is_last: bool = False
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = field(default_factory=list)

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        args = tuple(_without_memory("", value) for value in args)
        kwargs = {name: _without_memory(name, value) for name, value in kwargs.items()}
        if self.like is None:
            result = call(module, *args, **kwargs)
            self.calls.append((args, kwargs, result))
            return result
        self.calls.append((args, kwargs, None))
        if self.is_last:
            raise _StopError
        return (args[0], *self.like[1:]) if isinstance(self.like, tuple) else args[0]


def _run_all(training: Training, batches: Sequence[Any]) -> None:
    for batch in batches:
        training.data.call(batch)


def _find_chain(training: Training, layers: Collection[str], batches: Sequence[Any]) -> Sequence[str]:
    """The members of the container with most of the layers whose members are a chain (each takes the result of the one
    before as its first argument), tried on the first batch; none where there is no such container."""
    modules = named_modules(training.model)
    found = []
    for name, module in modules.items():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1:
            blocks = [f"{name}.{key}" if name else key for key in module._modules]
            inside = sum(any(_below(layer, block) for block in blocks) for layer in layers)
            found.append((inside, blocks))
    for inside, blocks in sorted(found, key=lambda pair: -pair[0]):
        known = inside > 1 and all(block in modules for block in blocks)
        if known and _is_chain(_recorded(training, blocks, batches[0], [_Recording() for _ in blocks])):
            return blocks
    return ()


def _recorded(
    training: Training, blocks: Sequence[str], batch: Any, recordings: Sequence[_Recording]
) -> Sequence[_Recording]:
    """What each block is called with in a forward of the whole model."""
    modules = named_modules(training.model)
    recorded = [(modules[block], recording) for block, recording in zip(blocks, recordings, strict=True)]
    with training.links.during(recorded), suppress(_StopError):
        training.data.call(batch)
    return recordings


def _is_chain(recordings: Sequence[_Recording]) -> bool:
    if any(len(recording.calls) != 1 or not recording.calls[0][0] for recording in recordings):
        return False
    calls = [recording.calls[0] for recording in recordings]
    firsts = all(isinstance(args[0], Tensor) for args, _, _ in calls)
    return firsts and all(_first(before[2]) is after[0][0] for before, after in pairwise(calls))


def _stream_chain(
    training: Training, chain: Sequence[str], layers: Collection[str], batches: Sequence[Any]
) -> Iterator[Unit]:
    modules = named_modules(training.model)
    inputs: list[Tensor] = []
    calls: list[list[_Call]] = []
    first = _recorded(training, chain, batches[0], [_Recording() for _ in chain])
    forms = [recording.calls[0][2] for recording in first]
    for batch in batches:
        silent = [_Recording(form, place == len(chain) - 1) for place, form in enumerate(forms)]
        recorded = [each.calls[0] for each in _recorded(training, chain, batch, silent)]
        inputs.append(recorded[0][0][0])
        calls.append([_Call(args[1:], kwargs) for args, kwargs, _ in recorded])
    for place, block in enumerate(chain):
        named = tuple(name for name in layers if _below(name, block))

        here = [(x, call[place]) for x, call in zip(inputs, calls, strict=True)]
        run = partial(_run_block, training.name, block, modules[block], here)
        if named:
            yield Unit(named, run)
        inputs = run()


def _run_block(owner: str, name: str, block: nn.Module, calls: Sequence[tuple[Tensor, _Call]]) -> list[Tensor]:
    """What a block gives for each batch."""
    try:
        return [_first(block(x, *call.rest, **call.named)) for x, call in calls]
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ScheduleError(f"{owner}: {name} could not be run on a batch of data: {error}") from error


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, (tuple, list)) and result else result


def _below(name: str, block: str) -> bool:
    return name == block or name.startswith(f"{block}.")


def _without_memory(name: str, value: Any) -> Any:
    """A cache of keys and values (of transformers, or tuples) would grow with every run of a block."""
    if name.startswith("past_key") or hasattr(value, "get_seq_length"):
        return None
    return False if name == "use_cache" else value
