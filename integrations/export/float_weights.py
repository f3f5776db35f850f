"""Weights of a written copy that an engine cannot multiply by as integers: floats again, with their rounded values."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from paredown.framework.model.links import links_of, remove_links
from paredown.integrations.export.spelled import Dequantizing

__all__ = ["float_layers", "unpack_"]


def float_layers(model: nn.Module) -> list[str]:
    """The layers whose weights are stored as integers, and dequantized in plain operators."""
    return [
        name
        for name, module in model.named_modules()
        for link in _dequantizing(module)
        if any(weight.zero_point is None or weight.zero_point.dtype != torch.int64 for *_, weight in link.weights)
    ]


def unpack_(model: nn.Module, names: Collection[str]) -> None:
    """Store the weights of some layers as the floats that their codes stand for."""
    modules = dict(model.named_modules())
    for name in names:
        for link in _dequantizing(modules[name]):
            remove_links(modules[name], [link])
            link.unpack_()


def _dequantizing(module: nn.Module) -> list[Dequantizing]:
    return [link for link in links_of(module) if isinstance(link, Dequantizing)]
