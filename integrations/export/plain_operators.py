"""Quantization written in torch's own operators: the numbers are those of `paredown.modifiers.quantization`."""

from __future__ import annotations

import torch
from torch import Tensor

from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["dequantized", "dynamic_grid", "float_grid", "to_grid"]


def to_grid(x: Tensor, scale: Tensor, zero_point: Tensor | int, scheme: ActivationScheme) -> Tensor:
    """Clip to an integer grid's range, then round to it; scale and zero point broadcast against ``x``."""
    low, high = (scheme.lowest - zero_point) * scale, (scheme.highest - zero_point) * scale
    return torch.round(torch.clamp(x, low, high) / scale) * scale


def float_grid(x: Tensor, wide: bool) -> Tensor:
    """To the numbers of float8_e4m3fn, or e5m2 (wide), saturating at the largest."""
    kind = torch.float8_e5m2 if wide else torch.float8_e4m3fn
    largest = torch.finfo(kind).max
    return x.clamp(-largest, largest).to(kind).to(x.dtype)


def dynamic_grid(x: Tensor, scheme: ActivationScheme) -> Tensor:
    """To the grid of the values' own range, of the tensor or of each token (the last dimension)."""
    dims = (-1,) if scheme.granularity == "token" else tuple(range(x.dim()))
    low, high = x.amin(dims, keepdim=True).clamp(max=0), x.amax(dims, keepdim=True).clamp(min=0)
    tiny = torch.finfo(x.dtype).tiny
    if scheme.symmetric:
        scale = (torch.maximum(-low, high) / scheme.half_range).clamp(min=tiny)
        if scheme.format != "int":
            return float_grid(x / scale, scheme.format == "fp8_e5m2") * scale
        return to_grid(x, scale, 0, scheme)
    scale = ((high - low) / (scheme.highest - scheme.lowest)).clamp(min=tiny)
    zero_point = (scheme.lowest - torch.round(low / scale)).clamp(scheme.lowest, scheme.highest)
    return to_grid(x, scale, zero_point, scheme)


def dequantized(codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group: int) -> Tensor:
    """Values of codes, as ONNX's DequantizeLinear has it: a scale for the tensor, an axis, or groups of it."""
    values = codes.to(scale.dtype)
    if zero_point is not None:
        values = values - _along(zero_point.to(scale.dtype), codes.dim(), axis, group)
    return values * _along(scale, codes.dim(), axis, group)


def _along(part: Tensor, dimensions: int, axis: int, group: int) -> Tensor:
    if group:
        return part.repeat_interleave(group, axis)
    return part if part.dim() == 0 else part.view([-1 if place == axis else 1 for place in range(dimensions)])
