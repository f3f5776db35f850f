"""Running a model with channels set to zero or cut, without changing it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paredown.framework.model.forward import Forward, call
from paredown.framework.model.graph.trace import tensors_of
from paredown.framework.model.links import without_links
from paredown.framework.model.targets import plain_name
from paredown.framework.model.temporary import buffers_kept, evaluating
from paredown.modifiers.pruning.removal.channels.attributes import Attribute
from paredown.modifiers.pruning.removal.channels.groups import Place

__all__ = [
    "Outputs",
    "Runner",
    "difference",
    "largest_error",
    "masked",
    "relative_error",
    "runner",
    "same_shapes",
    "tensors_by_name",
    "trial_cut",
]

Outputs = tuple[Tensor, ...]
#: largest difference of an output, relative to the largest output, by precision
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
COARSE = 3e-2


class Runner:
    """Runs a model on the example inputs, without links and with the same random numbers each time.

    Where the model has a multi-head attention, its two implementations of it are both run in eval mode.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, forward: Forward | None) -> None:
        self.model, self.inputs, self.forward = model, example_inputs, forward
        self._two_ways = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())

    def __call__(self) -> Outputs:
        """The outputs in eval mode."""
        with without_links(self.model), evaluating(self.model), buffers_kept(self.model), _seeded():
            outputs = tensors_of(call(self.model, self.inputs, self.forward))
            if self._two_ways:
                with _without_fast_path():
                    outputs += tensors_of(call(self.model, self.inputs, self.forward))
        return outputs

    def training(self, seed: int = 0) -> Outputs:
        """The outputs in training mode, without gradients; buffers are as they were afterwards."""
        kept = buffers_kept(self.model)
        with without_links(self.model), evaluating(self.model), kept, _seeded(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of gradient checkpoints without gradients
            self.model.train()
            return tensors_of(call(self.model, self.inputs, self.forward))

    @functools.cached_property
    def trains(self) -> Literal["not", "at random", "always alike"]:
        """Whether the model runs in training mode on these inputs, and gives the same whatever the random numbers."""
        try:
            outputs = self.training()
            return "at random" if difference(self.training(1), outputs) else "always alike"
        except Exception:  # inputs for training are others (targets, more than one sample)
            return "not"


def runner(model: nn.Module, example_inputs: Any, forward: Forward | None) -> Runner:
    """What runs a model on its example inputs."""
    return Runner(model, example_inputs, forward)


@contextmanager
def _seeded(seed: int = 0) -> Iterator[None]:
    """The same random numbers each time; the user's own go on afterwards as if nothing had been."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield


@contextmanager
def _without_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def tensors_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by plain name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {plain_name(name): tensor for name, tensor in named}


@contextmanager
def masked(model: nn.Module, gone: Mapping[Place, Tensor]) -> Iterator[None]:
    """The parameters with zeros at the places of these indices; their values come back afterwards."""
    tensors = tensors_by_name(model)
    before: list[tuple[Tensor, int, Tensor, Tensor]] = []
    with torch.no_grad():
        for (name, dimension), indices in gone.items():
            tensor = tensors[name]
            if isinstance(tensor, nn.Parameter):
                indices = indices.to(tensor.device)
                before.append((tensor, dimension, indices, tensor.index_select(dimension, indices)))
                tensor.index_fill_(dimension, indices, 0)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, dimension, indices, values in reversed(before):
                tensor.index_copy_(dimension, indices, values)


@contextmanager
def trial_cut(model: nn.Module, kept: Mapping[Place, Tensor], attributes: Iterable[Attribute]) -> Iterator[None]:
    """The model with only these indices of these places, and these attributes; it is as it was afterwards."""
    tensors, modules = tensors_by_name(model), {plain_name(n): m for n, m in model.named_modules()}
    before: dict[str, Tensor] = {}
    values: list[tuple[nn.Module, str, Any]] = []
    try:
        with torch.no_grad():
            for (name, dimension), indices in kept.items():
                tensor = tensors[name]
                before.setdefault(name, tensor.detach())
                cut = tensor.index_select(dimension, indices.to(tensor.device))
                tensor.set_(cut.contiguous())  # type: ignore[call-overload]
        for attribute in attributes:
            module = modules[attribute.module]
            values.append((module, attribute.key, getattr(module, attribute.key)))
            setattr(module, attribute.key, attribute.value)
        yield
    finally:
        for module, key, value in reversed(values):
            setattr(module, key, value)
        with torch.no_grad():
            for name, tensor in before.items():
                tensors[name].set_(tensor)  # type: ignore[call-overload]


def difference(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> str | None:
    """What differs between the outputs of two models beyond the rounding of few layers; None: nothing.

    Elements that are equal (a mask's -1e9, infinities) do not say how large the others are.
    """
    ours, theirs = tuple(ours), tuple(theirs)
    if not same_shapes(ours, theirs):
        return "its output has another shape"
    for a, b in zip(ours, theirs, strict=True):
        error = relative_error(a, b)
        if error and not a.is_floating_point():
            return "its output is another one"
        if not error <= TOLERANCE.get(a.dtype, COARSE):
            return f"its output differs by {error:.2g} of the largest one"
    return None


def same_shapes(ours: Outputs, theirs: Outputs) -> bool:
    """Whether two outputs have the same shapes."""
    return [part.shape for part in ours] == [part.shape for part in theirs]


def largest_error(ours: Outputs, theirs: Outputs) -> float:
    """The largest `relative_error` of the parts of two outputs of the same shapes."""
    return max((relative_error(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest of ``theirs``, among the elements that differ; 0 where none does."""
    differs = (ours != theirs) & ~(ours.isnan() & theirs.isnan())
    if not bool(differs.any()):
        return 0.0
    a, b = ours[differs].double(), theirs[differs].double()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))
