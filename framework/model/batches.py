"""Running the user's model on calibration batches and example inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset

from paredown.framework.errors import ParedownError, ScheduleError
from paredown.framework.model.forward import Forward, call
from paredown.framework.model.graph.fusion import Graph, export_graph
from paredown.framework.model.links import Link, add_link, remove_links
from paredown.framework.model.targets import named_modules, unwrap
from paredown.framework.model.temporary import buffers_kept, evaluating

__all__ = ["Batches", "Inputs", "device_of", "samples_in"]

#: of a tensor or a dataset that is given as data
SAMPLES_IN_BATCH = 32

Arguments = tuple[Any, ...] | Mapping[str, Any]


@dataclass
class Inputs:
    """What the user gave along to run the model with.

    Attributes:
        wrapped: the model as the user's loop calls it, in its wrappers.
        data: batches for calibration, or None.
        example_inputs: positional arguments of the model, or a mapping of named ones; None where none were given.
        forward: ``forward(model, batch)`` where ``model(batch[0])`` and ``model(**batch)`` do not fit.
        called: what `Batches.called` found, by the names of all modules.
    """

    wrapped: nn.Module
    data: Iterable[Any] | None = None
    example_inputs: Arguments | None = None
    forward: Forward | None = None
    called: dict[tuple[str, ...], frozenset[str] | None] = field(default_factory=dict)

    def update(self, data: Any, example_inputs: Any, forward: Forward | None) -> None:
        """Replace what is given; None changes nothing."""
        self.data = self.data if data is None else _as_batches(data)
        self.example_inputs = self.example_inputs if example_inputs is None else _as_arguments(example_inputs)
        self.forward = self.forward if forward is None else forward
        self.called.clear()


@dataclass(frozen=True)
class Batches:
    """The model on calibration batches and example inputs, on the model's device.

    Attributes:
        inputs: what the user gave along.
        owner: for whom the model runs: a modifier's name, for errors.
    """

    inputs: Inputs
    owner: str

    @property
    def model(self) -> nn.Module:
        """The user's own module, without wrappers."""
        return unwrap(self.inputs.wrapped)

    @property
    def available(self) -> bool:
        """Whether there is data to calibrate on."""
        return self.inputs.data is not None

    @property
    def repeatable(self) -> bool:
        """Whether the data can be read several times: it is no iterator."""
        return self.available and not isinstance(self.inputs.data, Iterator)

    @property
    def example_inputs(self) -> Arguments | None:
        """Arguments of the model, positional ones or a mapping of named ones; None where none were given."""
        given, device = self.inputs.example_inputs, device_of(self.model)
        if isinstance(given, Mapping):
            return {name: _to(value, device) for name, value in given.items()}
        return None if given is None else tuple(_to(given, device))

    @property
    def has_example(self) -> bool:
        """Whether `example` returns something, as far as can be known without reading a batch."""
        return self.inputs.example_inputs is not None or self.repeatable

    def require(self, why: str = "needs batches to calibrate on") -> Iterable[Any]:
        """The data. Raises ScheduleError where there is none, with the line to add."""
        if self.inputs.data is None:
            raise ScheduleError(f"{self.owner} {why}: modify(..., data=loader)")
        return self.inputs.data

    def first(self, samples: int | None = None) -> Iterator[Any]:
        """The batches of the data; with ``samples``, as many as hold that many (the first dimension counts them).

        Raises:
            ScheduleError: there is no data, or it gives no batch.
        """
        seen = 0
        for batch in self.require():
            yield batch
            seen += samples_in(batch)
            if samples is not None and seen >= samples:
                return
        if not seen:
            raise ScheduleError(f"{self.owner}: data gave no batch to calibrate on; a generator gives them only once")

    def call(self, batch: Any) -> Any:
        """The model's output for a batch: of ``model(batch[0])`` for a tuple or list, ``model(**batch)`` for a mapping.

        Raises:
            ScheduleError: the model cannot be run on it.
        """
        batch, model = _to(batch, device_of(self.model)), self.inputs.wrapped
        try:
            if self.inputs.forward is not None:
                return self.inputs.forward(model, batch)
            if isinstance(batch, Mapping):
                return model(**batch)
            return model(batch[0] if isinstance(batch, (tuple, list)) else batch)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ScheduleError(
                f"the model could not be run on a batch of data, a {type(batch).__name__}: {error}; where "
                "model(batch[0]) and model(**batch) do not fit, give forward=, a function of the model and the batch"
            ) from error

    def run(self, samples: int | None = None) -> None:
        """Run the model in eval mode, without gradients, on the batches of the data, or its first ``samples``.

        Raises:
            ScheduleError: there is no data, or it gives no batch.
        """
        with evaluating(self.model):
            for batch in self.first(samples):
                self.call(batch)

    def example(self) -> tuple[Any, Forward | None] | None:
        """What to trace and compare the model with, and how it is called: the example inputs, else the first batch of
        the data; None without either."""
        if self.inputs.example_inputs is not None:
            return self.example_inputs, None
        if self.inputs.data is None or not self.has_example:  # an iterator would lose its first batch
            return None
        batch = _to(next(iter(self.inputs.data), None), device_of(self.model))
        if batch is None or self.inputs.forward is not None:
            return None if batch is None else (batch, self.inputs.forward)
        return batch if isinstance(batch, (Mapping, Tensor)) else (batch[0],), None

    def called(self) -> frozenset[str] | None:
        """The names of the modules that are called where the model runs on `example`; None where it does not."""
        names = tuple(named_modules(self.model))
        if names not in self.inputs.called:
            example = self.example()
            self.inputs.called[names] = None if example is None else _called(self.model, *example)
        return self.inputs.called[names]

    def in_one_process(self) -> AbstractContextManager[None]:
        """A context in which gradients are not averaged over processes (DistributedDataParallel's ``no_sync``)."""
        alone: Callable[[], AbstractContextManager[None]] = getattr(self.inputs.wrapped, "no_sync", nullcontext)
        return alone()

    def graph(self) -> Graph | None:
        """The model's graph for what `example` returns; None without it.

        Raises:
            TargetError: the model cannot be traced.
        """
        example = self.example()
        return None if example is None else export_graph(self.model, *example)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is; the CPU where there is none."""
    tensors: Iterator[Tensor] = (t for group in (model.parameters(), model.buffers()) for t in group)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def samples_in(batch: Any) -> int:
    """How many samples a batch holds: the first dimension of its first tensor; 1 where there is none."""
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
    return tensors[0].shape[0] if tensors else 1


class _Noting(Link):
    """Notes that a module was called."""

    def __init__(self, name: str, called: set[str]) -> None:
        self.name, self.called = name, called

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        self.called.add(self.name)
        return call(module, *args, **kwargs)


def _called(model: nn.Module, inputs: Any, forward: Forward | None) -> frozenset[str] | None:
    called: set[str] = set()
    noting = [(module, _Noting(name, called)) for name, module in named_modules(model).items()]
    try:
        for module, link in noting:
            add_link(module, link)
        with evaluating(model), buffers_kept(model):
            call(model, inputs, forward)
    except Exception:  # a user's forward may raise anything
        return None
    finally:
        for module, link in noting:
            remove_links(module, [link])
    return frozenset(called)


def _as_batches(data: Any) -> Iterable[Any]:
    """What was given, as batches: a tensor of samples and a dataset of single ones are cut into such.

    Raises:
        ParedownError: it gives no batches.
    """
    if isinstance(data, Tensor) and data.dim():
        return torch.split(data, SAMPLES_IN_BATCH)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return DataLoader(data, batch_size=SAMPLES_IN_BATCH)
    if isinstance(data, (str, bytes, Mapping)) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        kind = type(data).__name__
        raise ParedownError(f"data is a {kind}; batches are wanted: a DataLoader of samples, or a list such as [batch]")
    given: Iterable[Any] = data
    return given


def _as_arguments(example_inputs: Any) -> Arguments:
    if isinstance(example_inputs, (tuple, Mapping)):
        return example_inputs
    return tuple(example_inputs) if isinstance(example_inputs, list) else (example_inputs,)


def _to(batch: Any, device: torch.device) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)
