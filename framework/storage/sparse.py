"""Compact form of tensors with many zeros: one bit an element, and the values that are not zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paredown.framework.storage.bits import pack_bits, unpack_bits

__all__ = ["not_zero", "pack_zeros", "unpack_zeros"]

#: the packed form is taken where it is smaller than this share of the plain one
WORTHWHILE = 0.9
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack_zeros(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict in which tensors of many zeros are mappings (``bits``, ``shape``, ``values``); others are as given.

    Tensors that share memory are packed once. `unpack_zeros` gives every bit back: -0.0 counts as a value.
    """
    done: dict[tuple[int, torch.Size, tuple[int, ...]], dict[str, Any]] = {}
    packed: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and _pays(value):
            place = (value.data_ptr(), value.shape, value.stride())
            packed[name] = done.setdefault(place, _packed(value))
        else:
            packed[name] = value
    return packed


def unpack_zeros(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict that `pack_zeros` packed, on the CPU where it was."""
    return {name: _unpacked(value) if isinstance(value, Mapping) else value for name, value in state.items()}


def not_zero(tensor: Tensor) -> Tensor:
    """Bool of the tensor's shape, True where any bit is set: -0.0 is stored as it is."""
    tensor = tensor.detach().contiguous()
    return tensor.view(INTEGERS.get(tensor.element_size(), tensor.dtype)) != 0


def _pays(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.element_size() not in INTEGERS:
        return False
    count, width = tensor.numel(), tensor.element_size()
    return count > 0 and count / 8 + int(not_zero(tensor).sum()) * width < WORTHWHILE * count * width


def _packed(tensor: Tensor) -> dict[str, Any]:
    kept = not_zero(tensor)
    return {**pack_bits(kept), "values": tensor.detach().contiguous()[kept].cpu()}


def _unpacked(packed: Mapping[str, Any]) -> Tensor:
    kept = unpack_bits(packed)
    values: Tensor = packed["values"]
    plain = torch.zeros(kept.shape, dtype=values.dtype)
    plain[kept] = values
    return plain
