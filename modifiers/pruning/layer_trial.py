"""Looking at a model without some of its layers, without changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from paredown.framework.calling import Forward, call, evaluating
from paredown.framework.channels import runner
from paredown.framework.channels.trial import difference
from paredown.framework.graph import tensors_of
from paredown.framework.managed import Link, add_link, remove_links, without_links
from paredown.framework.targets import named_modules
from paredown.framework.training import Training
from paredown.modifiers.pruning.whole_layers import Layer

__all__ = ["left_out", "numbers_after", "skip_differs"]


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
    with without_links(training.model):
        links = [(layer.module, _Skip()) for layer in layers]
        for module, link in links:
            add_link(module, link)
        try:
            wanted = _outputs(training.model, *example)
        finally:
            for module, link in links:
                remove_links(module, [link])
    with left_out(training.model, layers, attributes):
        try:
            return difference(runner(training.model, *example)(), wanted)
        except Exception as error:  # whatever the user's code raises
            return f"without it its code fails ({type(error).__name__}: {str(error).partition(chr(10))[0][:120]})"


def _outputs(model: nn.Module, inputs: Any, forward: Forward | None) -> tuple[Tensor, ...]:
    """As those of `runner`, with the links that are in place."""
    with evaluating(model):
        outputs = tensors_of(call(model, inputs, forward))
    return outputs * 2 if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()) else outputs


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
