"""Adapters beside layers, and copies of layers that are not computed with, as PEFT (LoRA and its kin) has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

__all__ = ["beside_the_model"]

#: where PEFT's layers say which of their children are adapters, and where they keep a layer that a copy stands in for
ADAPTERS, DISABLED = "adapter_layer_names", "original_module"


def beside_the_model(modules: Mapping[str, nn.Module]) -> set[str]:
    """Of modules by name, those that are no layers of the model itself: adapters, disabled copies, what is in them."""
    roots = {f"{name}.{child}".lstrip(".") for name, module in modules.items() for child in _children_beside(module)}
    beside: set[str] = set()
    for name in modules:  # what a module is in comes before it
        if name in roots or name.rpartition(".")[0] in beside:
            beside.add(name)
    return beside


def _children_beside(module: nn.Module) -> Iterable[str]:
    names = getattr(type(module), ADAPTERS, ())
    if DISABLED in module._modules and names:
        return [DISABLED]
    return [name for name in names if name in module._modules]
