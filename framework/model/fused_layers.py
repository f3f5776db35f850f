"""The fused kernels of torch's transformer layers, which read the weights of their children and do not call them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from paredown.framework.model.targets import named_modules

__all__ = [
    "Attributes",
    "attributes_set",
    "attributes_without_fast_path",
    "bypass_reason",
    "restore_fast_path",
    "use_slow_path",
]

#: values by module name and key
Attributes = dict[tuple[str, str], Any]


def attributes_without_fast_path(model: nn.Module, names: Collection[str]) -> Attributes:
    """What to set so that the modules ``names`` are called in eval mode too; what is computed is the same.

    An ``nn.TransformerEncoderLayer`` whose activation it does not know by number calls its children; an
    ``nn.TransformerEncoder`` without nested tensors asks no layer for weights.
    """
    found: Attributes = {}
    for name, encoder in _encoders_above(model, names).items():
        key = "use_nested_tensor" if isinstance(encoder, nn.TransformerEncoder) else "activation_relu_or_gelu"
        if getattr(encoder, key):
            found[name, key] = type(getattr(encoder, key))(0)
    return found


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


def use_slow_path(model: nn.Module, names: Collection[str]) -> None:
    """Set `attributes_without_fast_path`, to be undone by `restore_fast_path`."""
    modules = named_modules(model)
    for (name, key), value in attributes_without_fast_path(model, names).items():
        vars(modules[name]).setdefault("_before_slow_path", getattr(modules[name], key))
        setattr(modules[name], key, value)


def restore_fast_path(model: nn.Module, names: Collection[str]) -> None:
    """Undo `use_slow_path`, but where a child has been replaced since by something without a weight to read."""
    for encoder in _encoders_above(model, names).values():
        before = vars(encoder).pop("_before_slow_path", None)
        if before is not None and all(_can_be_read(layer) for layer in encoder.modules()):
            key = "use_nested_tensor" if isinstance(encoder, nn.TransformerEncoder) else "activation_relu_or_gelu"
            setattr(encoder, key, before)


def _can_be_read(module: nn.Module) -> bool:
    if not isinstance(module, nn.TransformerEncoderLayer):
        return True
    linear = isinstance(module.linear1, nn.Linear) and isinstance(module.linear2, nn.Linear)
    return linear and isinstance(module.self_attn, nn.MultiheadAttention)


def _encoders_above(model: nn.Module, names: Collection[str]) -> dict[str, Any]:
    encoders = {}
    for name, module in named_modules(model).items():
        inside = any(other.startswith(f"{name}." if name else "") for other in names)
        if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerEncoder)) and inside:
            encoders[name] = module
    return encoders


def bypass_reason(model: nn.Module, name: str) -> str | None:
    """Why a change of the forward or the structure of a layer would not reach its parent's computation, if so.

    Args:
        model: the whole.
        name: plain name of the layer.
    """
    above, _, key = name.rpartition(".")
    parent = named_modules(model).get(above)
    if isinstance(parent, nn.MultiheadAttention) and key == "out_proj":
        return "its parent MultiheadAttention reads its weight and never calls its forward"
    fast = isinstance(parent, nn.TransformerEncoderLayer) and bool(parent.activation_relu_or_gelu)
    if fast and key in ("linear1", "linear2"):
        return "its parent TransformerEncoderLayer reads its weight in eval mode and does not call its forward"
    return None
