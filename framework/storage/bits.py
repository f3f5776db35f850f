"""Packing of masks and of integers narrower than a byte: several values in each byte, the lowest bit first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["pack_bits", "pack_integers", "unpack_bits"]


def pack_bits(mask: Tensor) -> dict[str, Any]:
    """A bool tensor at one bit an element, as plain values and a uint8 tensor, on the CPU."""
    return {"bits": _packed(mask.detach()), "shape": list(mask.shape)}


def unpack_bits(packed: Mapping[str, Any]) -> Tensor:
    """The bool tensor that `pack_bits` packed."""
    shape = torch.Size(packed["shape"])
    bits = packed["bits"].unsqueeze(1) & (2 ** torch.arange(8, dtype=torch.uint8))
    mask: Tensor = (bits != 0).reshape(-1)[: shape.numel()].reshape(shape)
    return mask


def pack_integers(integers: Tensor, bits: int) -> Tensor:
    """Integers of ``bits`` (1 to 8) bits side by side, lowest first: uint8 of shape (ceil(n x bits / 8),), on the CPU.

    Negative ones are taken in two's complement.
    """
    values = integers.flatten().to(torch.int16)
    return _packed((values[:, None] >> torch.arange(bits, dtype=torch.int16, device=values.device)) & 1)


def _packed(bits: Tensor) -> Tensor:
    """Elements that are 0 or 1, eight to a byte, filled up with zeros."""
    flat = bits.reshape(-1).to(torch.uint8).cpu()
    flat = nn.functional.pad(flat, (0, -flat.numel() % 8)).reshape(-1, 8)
    return (flat * 2 ** torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
