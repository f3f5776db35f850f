"""Weights in the blocks of ggml: 32 consecutive codes of a row with a float16 scale.

``Q4_0`` and ``Q8_0`` stand for d q, the scale d a float16 number and q in [-8, 7] or [-128, 127]. A block of ``Q4_0``
has 18 bytes: d, then q + 8 of the places i and i + 16 in the low and the high half of byte i. One of ``Q8_0`` has 34.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.framework.errors import ExportError
from paredown.integrations.export.stored_weights import StoredWeight
from paredown.modifiers.quantization.numbers.scheme import WeightScheme

__all__ = ["BLOCK", "Stored", "blocks_of", "floats_of", "reason_not_to_store"]

#: codes that share a scale
BLOCK = 32
INSTEAD = "give symmetric integers in groups of 32, weights: {bits: 4, group_size: 32}"
FLOATS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


@dataclass(frozen=True)
class Stored:
    """A tensor of the file.

    Attributes:
        kind: its type by ggml's name.
        data: (..., bytes of a row) as uint8.
        exact: whether it is what was given, and not rounded for the file.
    """

    kind: str
    data: Tensor
    exact: bool = True


def reason_not_to_store(scheme: WeightScheme, columns: int) -> str | None:
    """Why weights of a scheme are not held exactly by such blocks, and what to use instead; None: they are.

    Any granularity is whose scales hold for 32 or more consecutive weights of a row: blocks repeat a scale.
    """
    size = scheme.group_size if scheme.block is None else scheme.block[1]
    if scheme.format != "int":
        return f"weights of the format {scheme.format} have no place in the file: {INSTEAD}"
    if not scheme.symmetric:
        return f"weights with a zero point have no place in the file: {INSTEAD}"
    if size is not None and size % BLOCK:
        return f"a scale of the file is that of {BLOCK} weights, and group_size is {size}: {INSTEAD}"
    if columns % BLOCK:
        return f"rows of {columns} weights are not divisible into blocks of {BLOCK}: add the layer to ignore"
    return None


def blocks_of(weight: StoredWeight) -> Stored:
    """A matrix as ``Q4_0`` (up to 4 bits) or ``Q8_0``, its scales rounded to float16.

    Args:
        weight: that `reason_not_to_store` lets pass, not turned.

    Raises:
        ExportError: a scale is too large for float16.
    """
    codes, blocks = weight.codes, weight.codes.shape[1] // BLOCK
    scale = _of_blocks(weight, blocks)
    rounded = scale.to(torch.float16)
    if not bool(rounded.isfinite().all()):
        raise ExportError(f"a scale is too large for float16: {float(scale.max()):g}")
    places = codes.reshape(len(codes), blocks, BLOCK)
    data = _packed(places) if weight.bits <= 4 else places.view(torch.uint8)
    joined = torch.cat([_as_bytes(rounded.unsqueeze(-1)), data], -1).flatten(1)
    exact = torch.equal(rounded.to(scale.dtype), scale)
    return Stored("Q4_0" if weight.bits <= 4 else "Q8_0", joined, exact)


def floats_of(tensor: Tensor, kind: torch.dtype | None) -> Stored:
    """A tensor in floating point: vectors as float32, as llama.cpp wants them.

    Args:
        kind: of a matrix: float16, bfloat16 or float32; None: its own.
    """
    own = tensor.dtype if kind is None else kind
    wanted = own if own in FLOATS and tensor.dim() > 1 else torch.float32
    stored = tensor.detach().cpu().to(wanted)
    return Stored(FLOATS[wanted], _as_bytes(stored), torch.equal(stored.to(tensor.dtype), tensor.detach().cpu()))


def _of_blocks(weight: StoredWeight, blocks: int) -> Tensor:
    """The scale of each block: (rows, blocks)."""
    rows, scale = len(weight.codes), weight.scale
    if weight.group:
        return scale.repeat_interleave(weight.group // BLOCK, 1)
    return (scale if scale.dim() == 0 else scale.unsqueeze(1)).expand(rows, blocks)


def _packed(places: Tensor) -> Tensor:
    """Codes (rows, blocks, 32) in [-8, 7], two in a byte: (rows, blocks, 16)."""
    low, high = (places + BLOCK // 4).view(torch.uint8).chunk(2, -1)
    return low | high << 4


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)
