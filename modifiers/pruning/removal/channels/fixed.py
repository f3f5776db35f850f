"""Dimensions that cannot be cut, for reasons that the graph does not show."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from paredown.framework.model.links import links_of
from paredown.framework.model.targets import named_modules, named_parameters
from paredown.modifiers.pruning.removal.channels.groups import Place

__all__ = ["fixed_places"]

MULTIHEAD = "nn.MultiheadAttention takes the width of its heads from its input"


def fixed_places(model: nn.Module) -> dict[Place, str]:
    """The dimensions of tensors that cannot be cut, with the reason: of quantized layers, and of torch's attention."""
    refused: dict[Place, str] = {}
    for name, module in named_modules(model).items():
        if isinstance(module, nn.MultiheadAttention):
            refused.update(_places(name, module, MULTIHEAD))
        if any(link.permanent for link in links_of(module)):
            refused.update(_places(name, module, f"{name} is quantized", recurse=False))
    refused.update(_sharing(model))
    return refused


def _sharing(model: nn.Module) -> Iterable[tuple[Place, str]]:
    """Parameters that are several objects over the same memory: cut one by one, they would come apart."""
    first: dict[tuple[int, torch.Size], tuple[str, nn.Parameter]] = {}
    for name, parameter in named_parameters(model).items():
        if parameter.is_meta or not parameter.numel():
            continue
        other, known = first.setdefault((parameter.data_ptr(), parameter.shape), (name, parameter))
        if known is not parameter:
            for each, with_ in ((name, other), (other, name)):
                for dimension in range(parameter.dim()):
                    yield (each, dimension), f"{each} shares its memory with {with_}, but is another parameter"


def _places(name: str, module: nn.Module, reason: str, recurse: bool = True) -> Iterable[tuple[Place, str]]:
    for key, tensor in [*module.named_parameters(recurse=recurse), *module.named_buffers(recurse=recurse)]:
        for dimension in range(tensor.dim()):
            yield ((f"{name}.{key}" if name else key, dimension), reason)
