"""What cannot be cut, whatever the graph says."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from paredown.framework.channels.groups import Place
from paredown.framework.managed import links_of
from paredown.framework.targets import named_modules

__all__ = ["fixed_places"]

MULTIHEAD = "nn.MultiheadAttention takes the width of its heads from its input"


def fixed_places(model: nn.Module) -> dict[Place, str]:
    """The dimensions of tensors that cannot be cut, with the reason: of quantized layers, and of torch's attention."""
    refused: dict[Place, str] = {}
    for name, module in named_modules(model).items():
        if isinstance(module, nn.MultiheadAttention):
            refused.update(_all_places(name, module, MULTIHEAD))
        if any(link.permanent for link in links_of(module)):
            refused.update(_all_places(name, module, f"{name} is quantized"))
    return refused


def _all_places(name: str, module: nn.Module, reason: str) -> Iterable[tuple[Place, str]]:
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        for dimension in range(tensor.dim()):
            yield ((f"{name}.{key}" if name else key, dimension), reason)
