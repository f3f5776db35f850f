"""Programs of quantized_decomposed operators whose products do not overflow on processors without VNNI."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor

from paredown.integrations.export.limited_pairs import limited_pairs

__all__ = ["limit_pairs_"]


def limit_pairs_(tensors: MutableMapping[str, Tensor]) -> bool:
    """Raise the scales of output channels two of whose codes can overflow; whether there are any.

    Args:
        tensors: those of a program, by name; a weight of a product of integers is ``X_codes``, with the output channels
            first, ``X_scale`` and ``X_zero_point`` (int64).
    """
    weights = [name.removesuffix("_zero_point") for name, tensor in tensors.items() if _of_weight(name, tensor)]
    found = [name for name in weights if _limit_(tensors, f"{name}_codes", f"{name}_scale")]
    return bool(found)


def _of_weight(name: str, tensor: Tensor) -> bool:
    return name.endswith("_zero_point") and tensor.dim() == 1 and tensor.dtype == torch.int64


def _limit_(tensors: MutableMapping[str, Tensor], codes: str, scale: str) -> bool:
    limited = limited_pairs(tensors[codes].numpy(), 0)
    if limited is None:
        return False
    tensors[codes] = torch.from_numpy(limited[0])
    tensors[scale] = tensors[scale] * torch.from_numpy(limited[1]).to(tensors[scale].dtype)
    return True
