"""Layers that can be left out of a model: those in a list of layers whose input and output are of one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from paredown.framework.calling import call, evaluating
from paredown.framework.channels import runner
from paredown.framework.channels.trial import difference
from paredown.framework.graph import tensors_of
from paredown.framework.managed import Link, add_link, remove_links
from paredown.framework.modifier import TargetedModifier
from paredown.framework.targets import named_modules
from paredown.framework.training import Training

__all__ = ["Layer", "block_influence", "find_layers", "left_out", "numbers_after", "skip_differs"]


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


def find_layers(training: Training, modifier: TargetedModifier) -> tuple[list[Layer], dict[str, str]]:
    """The layers among the targets that can be left out, with their influence, and why others cannot.

    Runs the model on ``data``, or else on the example inputs.
    """
    modules = named_modules(training.model)
    watched = {name: _Watch() for name in _children_of_lists(modules) if name in training.targets(modifier)}
    watched = {name: watch for name, watch in watched.items() if not _inside(name, watched)}
    for name, watch in watched.items():
        training.manage(modifier, modules[name], watch)
    try:
        forwards = _run(training, modifier)
    finally:
        training.unmanage(modifier, lambda link: isinstance(link, _Watch))
    layers, reasons = [], {}
    for name, watch in watched.items():
        reason = watch.refusal(forwards)
        if reason is not None:
            reasons[name] = reason
            continue
        container, _, index = name.rpartition(".")
        layers.append(Layer(name, container, int(index), modules[name], watch.total / max(watch.calls, 1)))
    return layers, reasons


def _children_of_lists(modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """Children with parameters and parts of their own, in lists with several children."""
    for name, module in modules.items():
        above, _, key = name.rpartition(".")
        parent = modules.get(above)
        listed = isinstance(parent, (nn.ModuleList, nn.Sequential)) and len(parent) > 1 and key.isdigit()
        if listed and list(module.children()) and any(True for _ in module.parameters()):
            yield name


def _inside(name: str, others: Mapping[str, object]) -> bool:
    return any(name.startswith(f"{other}.") for other in others)


def _run(training: Training, modifier: TargetedModifier) -> int:
    """How many forwards were run."""
    if training.data is not None:
        count = 0
        with evaluating(training.model):
            for batch in training.batches(modifier):
                training.call(batch)
                count += 1
        return count
    example = training.example()
    assert example is not None
    watched_run(training.model, *example)
    return 1


def watched_run(model: nn.Module, inputs: Any, forward: Any) -> None:
    """One eval forward, with the links in place."""
    with evaluating(model):
        call(model, inputs, forward)


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


class _Skip(Link):
    """Passes the input on in the place of the output."""

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        first = tensors_of((args, kwargs))[0]
        output = call(module, *args, **kwargs)
        return (first, *output[1:]) if isinstance(output, tuple) else first


@contextmanager
def left_out(model: nn.Module, layers: Sequence[Layer], attributes: Sequence[tuple[str, str, Any]]) -> Iterator[None]:
    """The model without some layers; it is as it was afterwards.

    Args:
        model: whose.
        layers: what is left out.
        attributes: (module, key, value): from `numbers_after`, with the names before.
    """
    modules = named_modules(model)
    before = {name: dict(modules[name]._modules) for name in {layer.container for layer in layers}}
    values = [(modules[name], key, getattr(modules[name], key)) for name, key, _ in attributes]
    try:
        for name, children in before.items():
            gone = {layer.index for layer in layers if layer.container == name}
            kept = [child for place, child in enumerate(children.values()) if place not in gone]
            modules[name]._modules.clear()
            modules[name]._modules.update({str(place): child for place, child in enumerate(kept)})
        for name, key, value in attributes:
            setattr(modules[name], key, value)
        yield
    finally:
        for module, key, value in values:
            setattr(module, key, value)
        for name, children in before.items():
            modules[name]._modules.clear()
            modules[name]._modules.update(children)


def skip_differs(training: Training, layers: Sequence[Layer], attributes: Sequence[tuple[str, str, Any]]) -> str | None:
    """What differs between the model without these layers and the model that passes their inputs on; None: nothing."""
    example = training.example()
    assert example is not None
    links = [(layer.module, _Skip()) for layer in layers]
    run = _plain_runner(training.model, *example)
    for module, link in links:
        add_link(module, link)
    try:
        wanted = run()
    finally:
        for module, link in links:
            remove_links(module, [link])
    with left_out(training.model, layers, attributes):
        try:
            return difference(runner(training.model, *example)(), wanted)
        except Exception as error:  # whatever the user's code raises
            return f"without it its code fails ({type(error).__name__}: {str(error).partition(chr(10))[0][:120]})"


def _plain_runner(model: nn.Module, inputs: Any, forward: Any) -> Callable[[], tuple[Tensor, ...]]:
    def run() -> tuple[Tensor, ...]:
        with evaluating(model):
            outputs = tensors_of(call(model, inputs, forward))
            two = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
        return outputs * 2 if two else outputs

    return run


def numbers_after(model: nn.Module, layers: Sequence[Layer]) -> list[tuple[str, str, int]]:
    """Attributes that number the layers of a list (``layer_idx``), as they are to be: (module, key, value)."""
    modules = named_modules(model)
    found = []
    for container in dict.fromkeys(layer.container for layer in layers):
        gone = {layer.index for layer in layers if layer.container == container}
        kept = [index for index in range(len(modules[container])) if index not in gone]  # type: ignore[arg-type]
        for path, key in _numbering(modules, container):
            for place, index in enumerate(kept):
                name = ".".join(part for part in (container, str(index), path) if part)
                found.append((name, key, place))
    return found


def _numbering(modules: Mapping[str, nn.Module], container: str) -> list[tuple[str, str]]:
    """Paths below a layer, and keys, whose values are the layers' own numbers throughout."""
    count = len(modules[container])  # type: ignore[arg-type]
    kinds: dict[tuple[str, str], list[int]] = {}
    for index in range(count):
        prefix = f"{container}.{index}" if container else str(index)
        for name, module in modules.items():
            if name == prefix or name.startswith(f"{prefix}."):
                for key, value in vars(module).items():
                    if isinstance(value, int) and not isinstance(value, bool) and value == index:
                        kinds.setdefault((name[len(prefix) + 1 :], key), []).append(index)
    return [kind for kind, indices in kinds.items() if indices == list(range(count))]
