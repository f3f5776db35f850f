"""Weights whose products with uint8 inputs fit in 16 bits, for processors without VNNI."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor

__all__ = ["halve_large_codes_"]

#: two products of codes up to this with 255 fit in 16 bits
SAFE = 64


def halve_large_codes_(tensors: MutableMapping[str, Tensor]) -> bool:
    """Double the scale of output channels two of whose codes can overflow, and halve their codes; whether any were.

    Args:
        tensors: those of a program, by name; a weight of a product of integers is ``X_codes``, with the output channels
            first, ``X_scale`` and ``X_zero_point`` (int64).
    """
    weights = [name.removesuffix("_zero_point") for name, tensor in tensors.items() if _of_weight(name, tensor)]
    found = [name for name in weights if _halve_(tensors, f"{name}_codes", f"{name}_scale")]
    return bool(found)


def _of_weight(name: str, tensor: Tensor) -> bool:
    return name.endswith("_zero_point") and tensor.dim() == 1 and tensor.dtype == torch.int64


def _halve_(tensors: MutableMapping[str, Tensor], codes: str, scale: str) -> bool:
    rows = tensors[codes].flatten(1)
    large = rows.int().abs().amax(1) > SAFE
    halved = torch.where(large.unsqueeze(1), (rows / 2).round().to(rows.dtype), rows)
    tensors[codes] = halved.reshape(tensors[codes].shape)
    tensors[scale] = torch.where(large, tensors[scale] * 2, tensors[scale])
    return bool(large.any())
