"""Running a model without some of its layers, without changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from paredown.framework.model.forward import Forward, call
from paredown.framework.model.graph.fusion import tensors_of
from paredown.framework.model.links import Link, add_link, remove_links, without_links
from paredown.framework.model.targets import named_modules
from paredown.framework.model.temporary import buffers_kept, evaluating
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.removal.channels import runner
from paredown.modifiers.pruning.removal.channels.trial import Runner, difference
from paredown.modifiers.pruning.removal.whole_layers import Layer

__all__ = ["Setting", "Trial", "left_out", "tried"]

Setting = tuple[str, str, Any]


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
        attributes: (module, key, value), with the names before.
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


@dataclass(frozen=True)
class Trial:
    """What came of leaving layers out: the attributes that come with it, and what differs, if something does."""

    attributes: tuple[Setting, ...] = ()
    reason: str | None = None


def tried(training: Training, layers: Sequence[Layer]) -> Trial:
    """Compare the model without these layers with the model that passes their inputs on.

    Attributes that number the layers, and those that count them, are changed where it takes that.
    """
    example = training.data.example()
    assert example is not None
    run = runner(training.model, *example)
    trains = run.trains != "not"
    wanted = _passed_on(training, layers)
    numbers, counts = numbers_after(training.model, layers), counts_after(training.model, layers)
    reason = None
    for attributes in dict.fromkeys((numbers, (*numbers, *counts), counts, ())):
        found = _without(training.model, layers, attributes, run, wanted, trains)
        if found is None:
            return Trial(attributes)
        reason = reason or found
    return Trial(numbers, reason)


def _passed_on(training: Training, layers: Sequence[Layer]) -> tuple[Tensor, ...]:
    example = training.data.example()
    assert example is not None
    with without_links(training.model):
        links = [(layer.module, _Skip()) for layer in layers]
        for module, link in links:
            add_link(module, link)
        try:
            return _outputs(training.model, *example)
        finally:
            for module, link in links:
                remove_links(module, [link])


def _without(
    model: nn.Module,
    layers: Sequence[Layer],
    attributes: Sequence[Setting],
    run: Runner,
    wanted: tuple[Tensor, ...],
    trains: bool,
) -> str | None:
    """What differs; the model also has to run in training mode where it did."""
    with left_out(model, layers, attributes):
        try:
            reason = difference(run(), wanted)
            if reason is None and trains:
                run.training()
        except Exception as error:  # whatever the user's code raises
            return f"without it its code fails ({type(error).__name__}: {str(error).partition(chr(10))[0][:120]})"
    return reason


def _outputs(model: nn.Module, inputs: Any, forward: Forward | None) -> tuple[Tensor, ...]:
    """As those of `runner`, with the links that are in place."""
    with evaluating(model), buffers_kept(model):
        outputs = tensors_of(call(model, inputs, forward))
    return outputs * 2 if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()) else outputs


def numbers_after(model: nn.Module, layers: Sequence[Layer]) -> tuple[Setting, ...]:
    """Attributes that number the layers of a list (``layer_idx``), as they are to be: (module, key, value)."""
    modules = named_modules(model)
    found: list[Setting] = []
    for container in dict.fromkeys(layer.container for layer in layers):
        gone = {layer.index for layer in layers if layer.container == container}
        names = [name for index, name in enumerate(_children(modules, container)) if index not in gone]
        for path, key in _numbering(modules, container):
            found += [(f"{name}.{path}" if path else name, key, place) for place, name in enumerate(names)]
    return tuple(found)


def counts_after(model: nn.Module, layers: Sequence[Layer]) -> tuple[Setting, ...]:
    """Attributes of the modules around a list that have its length, as they are to be."""
    modules = named_modules(model)
    found: list[Setting] = []
    for container in dict.fromkeys(layer.container for layer in layers):
        count = len(_children(modules, container))
        gone = sum(layer.container == container for layer in layers)
        for name, module in modules.items():
            if name == "" or container == name or container.startswith(f"{name}."):
                found += [(name, key, count - gone) for key, value in _integers(module) if value == count]
    return tuple(found)


def _children(modules: Mapping[str, nn.Module], container: str) -> list[str]:
    return [f"{container}.{key}" if container else key for key in modules[container]._modules]


def _integers(module: nn.Module) -> Iterator[tuple[str, int]]:
    for key, value in vars(module).items():
        if isinstance(value, int) and not isinstance(value, bool):
            yield key, value


def _numbering(modules: Mapping[str, nn.Module], container: str) -> list[tuple[str, str]]:
    """Paths below a layer, and keys, whose values are the layers' own numbers throughout."""
    children = _children(modules, container)
    kinds: dict[tuple[str, str], list[int]] = {}
    for index, prefix in enumerate(children):
        for name, module in modules.items():
            if name == prefix or name.startswith(f"{prefix}."):
                for key, value in _integers(module):
                    if value == index:
                        kinds.setdefault((name[len(prefix) + 1 :], key), []).append(index)
    return [kind for kind, indices in kinds.items() if indices == list(range(len(children)))]
