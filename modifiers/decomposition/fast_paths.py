"""What keeps torch's transformer layers from reading the weights of layers that are decomposed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from paredown.framework.targets import named_modules

__all__ = ["Attributes", "attributes_set", "attributes_without_fast_path"]

#: values by module name and key
Attributes = dict[tuple[str, str], Any]


def attributes_without_fast_path(model: nn.Module, names: Iterable[str]) -> Attributes:
    """What to set so that these modules are called in eval mode too.

    An ``nn.TransformerEncoderLayer`` whose activation it does not know by number calls its ``linear1`` and ``linear2``;
    an ``nn.TransformerEncoder`` without nested tensors asks no layer for weights.
    """
    modules: Mapping[str, Any] = named_modules(model)
    found: Attributes = {}
    for name in names:
        above, _, key = name.rpartition(".")
        if isinstance(modules.get(above), nn.TransformerEncoderLayer) and key in ("linear1", "linear2"):
            found[above, "activation_relu_or_gelu"] = 0
        parts = name.split(".")
        for ancestor in (".".join(parts[:depth]) for depth in range(len(parts))):
            if isinstance(modules.get(ancestor), nn.TransformerEncoder):
                found[ancestor, "use_nested_tensor"] = False
    return {place: value for place, value in found.items() if getattr(modules[place[0]], place[1], None)}


@contextmanager
def attributes_set(model: nn.Module, attributes: Mapping[tuple[str, str], Any]) -> Iterator[None]:
    """The model with these attributes, for a while."""
    modules = named_modules(model)
    before = {(name, key): getattr(modules[name], key) for name, key in attributes}
    try:
        for (name, key), value in attributes.items():
            setattr(modules[name], key, value)
        yield
    finally:
        for (name, key), value in before.items():
            setattr(modules[name], key, value)
