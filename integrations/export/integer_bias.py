"""A bias as an integer engine adds it to its sums: 32 bits, at the scale of input times weight."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from paredown.integrations.export.stored_weights import StoredWeight
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer

__all__ = ["as_int8", "integer_bias"]

#: the largest code of a bias: a channel whose bias would need a larger one gets a larger scale
LARGEST = 2**30

Stored = dict[str, StoredWeight]


def as_int8(stored: Stored) -> Stored:
    """Codes of fewer than 8 bits that meet quantized inputs, to be stored as int8: engines multiply by these."""
    return {
        name: weight if weight.group or weight.is_float else dataclasses.replace(weight, bits=8)
        for name, weight in stored.items()
    }


def integer_bias(module: nn.Module, stored: Stored, inputs: ActivationQuantizer) -> tuple[Stored, StoredWeight | None]:
    """The weights of a layer with quantized inputs, and its bias; None: it stays in floating point.

    Where the weights of a channel are so small that its bias does not fit into 32 bits, which would send the whole
    layer to floating point, the channel's scale is raised to |b| / (S_x 2^30), and its codes are rounded anew: what
    they lose is less than the bias' own last bit.
    """
    bias, weight = module._parameters.get("bias"), stored.get("weight")
    # at the scale of narrower inputs it is too coarse
    plain = inputs.scheme.format == "int" and inputs.scheme.bits == 8
    if not plain or bias is None or weight is None or weight.group or weight.is_float:
        return stored, None
    input_scale: Any = module._buffers["input_scale"]
    weight = _with_least_scale(weight, bias.detach().abs() / (input_scale * LARGEST))
    scale = (weight.scale * input_scale).expand(bias.shape).clone()
    codes = (bias.detach() / scale).round().to(torch.int32)
    return {**stored, "weight": weight}, StoredWeight(codes, scale, None, 0, 0, tuple(bias.shape), 32)


def _with_least_scale(weight: StoredWeight, least: Tensor) -> StoredWeight:
    """The weight with a scale for each channel that is no less than that."""
    if not (weight.scale < least).any():
        return weight
    if weight.scale.dim() == 0:
        least = least.max()
    scale = torch.maximum(weight.scale, least.to(weight.scale.dtype))
    across = [-1 if place == weight.axis and scale.dim() else 1 for place in range(weight.codes.dim())]
    ratio, zero = (
        (weight.scale / scale).view(across),
        0 if weight.zero_point is None else weight.zero_point.view(across),
    )
    codes = ((weight.codes.to(scale.dtype) - zero) * ratio).round() + zero
    return dataclasses.replace(weight, codes=codes.to(weight.codes.dtype), scale=scale)
