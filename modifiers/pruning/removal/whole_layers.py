"""Layers that can be left out of a model: those in a list of layers whose input and output are of one shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from paredown.framework.model.forward import call
from paredown.framework.model.graph.fusion import tensors_of
from paredown.framework.model.links import Link
from paredown.framework.model.targets import named_modules
from paredown.framework.model.temporary import buffers_kept, evaluating
from paredown.framework.modifier.training import Training

__all__ = ["Layer", "block_influence", "find_layers"]


@dataclass(frozen=True)
class Layer:
    """A child of a ModuleList or Sequential.

    Attributes:
        name: its plain name.
        container: the list's name.
        index: its place there.
        module: itself.
        influence: block influence, see `block_influence`.
    """

    name: str
    container: str
    index: int
    module: nn.Module
    influence: float


def block_influence(inputs: Tensor, outputs: Tensor) -> float:
    """1 - E[cos(input, output)] (Men et al., 2024, arXiv:2403.03853, Eq. 1).

    Args:
        inputs, outputs: hidden states of one shape; of (batch, tokens, width) the cosine is that of each token, of
            other shapes that of each sample.
    """
    if inputs.dim() != 3:
        inputs, outputs = inputs.flatten(1), outputs.flatten(1)
    similarity = nn.functional.cosine_similarity(inputs.double(), outputs.double(), dim=-1)
    return float(1 - similarity.mean())


def find_layers(training: Training) -> tuple[list[Layer], dict[str, str]]:
    """The layers among the targets that can be left out, with their influence, and why others cannot.

    Where at most one child of a list can be left out (the stages of a pyramid), the lists inside of its children are
    looked at instead.
    Runs the model on ``data``, or else on the example inputs.
    """
    modules = named_modules(training.model)
    watched = {name: _Watch() for name in _children_of_lists(modules) if name in training.targets()}
    with training.links.during((modules[name], watch) for name, watch in watched.items()):
        forwards = _run(training)
    reasons = {name: reason for name, watch in watched.items() if (reason := watch.refusal(forwards)) is not None}
    able = [name for name in watched if name not in reasons]
    counts = Counter(_list_of(name) for name in able)
    closed = [name for name in watched if counts[_list_of(name)] > 1]
    chosen = [name for name in able if name in closed and not _inside(name, closed)]
    layers = [_layer(name, modules, watched[name]) for name in chosen]
    shown = {name: reason for name, reason in reasons.items() if not _inside(name, closed) and not _holds(name, able)}
    return layers, shown


def _layer(name: str, modules: Mapping[str, nn.Module], watch: _Watch) -> Layer:
    container, _, key = name.rpartition(".")
    index = list(modules[container]._modules).index(key)  # a part of a Sequential keeps its keys
    return Layer(name, container, index, modules[name], watch.total / max(watch.calls, 1))


def _children_of_lists(modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """Children with parameters and parts of their own, in lists with several children."""
    for name, module in modules.items():
        above, _, key = name.rpartition(".")
        parent = modules.get(above)
        listed = isinstance(parent, (nn.ModuleList, nn.Sequential)) and len(parent) > 1 and key.isdigit()
        if listed and list(module.children()) and any(True for _ in module.parameters()):
            yield name


def _list_of(name: str) -> str:
    return name.rpartition(".")[0]


def _inside(name: str, others: Sequence[str]) -> bool:
    return any(name.startswith(f"{other}.") for other in others)


def _holds(name: str, others: Sequence[str]) -> bool:
    return any(other.startswith(f"{name}.") for other in others)


def _run(training: Training) -> int:
    """How many forwards were run."""
    if training.data.available:
        count = 0
        with evaluating(training.model), buffers_kept(training.model):
            for batch in training.data.first():
                training.data.call(batch)
                count += 1
        return count
    example = training.data.example()
    assert example is not None
    with evaluating(training.model), buffers_kept(training.model):
        call(training.model, *example)
    return 1


class _Watch(Link):
    """Compares what goes into a layer with what comes out."""

    def __init__(self) -> None:
        self.calls = 0
        self.total = 0.0
        self.reason: str | None = None

    def refusal(self, forwards: int) -> str | None:
        if self.reason is None and self.calls != forwards:
            return "it is not called" if not self.calls else f"it is called {self.calls // max(forwards, 1)} times"
        return self.reason

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        output = call(module, *args, **kwargs)
        inputs, outputs = tensors_of((args, kwargs))[:1], tensors_of(output)[:1]
        self.calls += 1
        if not inputs or not outputs or inputs[0].shape != outputs[0].shape or inputs[0].dim() < 2:
            self.reason = "its input and output are not of one shape"
        else:
            self.total += block_influence(inputs[0].detach(), outputs[0].detach())
        return output
