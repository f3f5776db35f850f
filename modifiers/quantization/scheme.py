"""What a quantized number is: its width, its grid, and what shares a scale."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor

from paredown.framework.modifier import Options

__all__ = ["ActivationScheme", "Bits", "QuantizationScheme", "WeightScheme", "affine_parameters", "weight_scale"]

Bits = Annotated[int, Strict(), Field(ge=2, le=8)]


class QuantizationScheme(Options):
    """Integers q that stand for x = S (q - Z), with scale S and zero point Z (Jacob et al., 2017, arXiv:1712.05877).

    Symmetric: Z = 0 and q in [-(2^(b-1) - 1), 2^(b-1) - 1], the narrow range, so that -x is representable where x is.
    Affine: q in [0, 2^b - 1]; zero is always exactly on the grid.
    """

    bits: Bits = 8
    """Width of the integers, 2 to 8."""
    format: Literal["int"] = "int"
    """How the bits are read."""
    granularity: Literal["tensor", "channel"] = "tensor"
    """What shares a scale: the whole tensor, or each channel of its own."""
    symmetric: bool = True
    """Zero point 0 and a range around it; otherwise the range is used in full."""
    observer: Literal["minmax", "moving_average"] = "minmax"
    """How the range is found from the values that were seen."""

    @property
    def lowest(self) -> int:
        """The smallest integer."""
        return -self.highest if self.symmetric else 0

    @property
    def highest(self) -> int:
        """The largest integer."""
        return (1 << self.bits - 1) - 1 if self.symmetric else (1 << self.bits) - 1


class WeightScheme(QuantizationScheme):
    """How weights are quantized; by default int8, symmetric, with a scale for each output channel."""

    granularity: Literal["tensor", "channel"] = "channel"
    """What shares a scale: the whole weight, or each output channel of its own."""
    observer: Literal["minmax"] = "minmax"
    """A weight's range is that of the weight itself, at every step."""


class ActivationScheme(QuantizationScheme):
    """How a layer's inputs are quantized; by default uint8, affine, from a moving average of the ranges of batches.

    Affine uint8 is the default because a rectified input then uses all 256 values and because inference engines fuse
    the rectifier into it (zero point 0).
    """

    granularity: Literal["tensor"] = "tensor"
    """What shares a scale: the whole tensor."""
    symmetric: bool = False
    """Zero point 0 and a range around it; otherwise the range is used in full."""
    observer: Literal["minmax", "moving_average"] = "moving_average"
    """``minmax``: the extremes of all batches; ``moving_average``: of their extremes, with momentum 0.01."""


def weight_scale(weight: Tensor, scheme: QuantizationScheme, channel: int = 0) -> Tensor:
    """The symmetric scale at which the largest magnitude is exactly the largest integer: absmax / (2^(b-1) - 1).

    Args:
        weight: any shape.
        channel: the dimension of the output channels (1 for a transposed convolution).

    Returns:
        float32 (float64 for float64) of a shape that broadcasts against ``weight``; a channel of zeros gets the
        smallest normal number, so that its zeros stay zeros.
    """
    weight = weight.detach()
    others = tuple(range(weight.dim()))
    if scheme.granularity == "channel":
        others = tuple(dimension for dimension in others if dimension != channel % weight.dim())
    if not weight.numel():
        largest = weight.new_zeros([1 if dimension in others else size for dimension, size in enumerate(weight.shape)])
    elif not others:
        largest = weight.abs()
    else:  # twice as fast as the maximum of absolute values, and 20 times as fast as `aminmax` along a dimension
        largest = torch.maximum(weight.amax(others, keepdim=True), weight.amin(others, keepdim=True).neg())
    return _safe(_wide(largest) / scheme.highest)


def affine_parameters(low: Tensor, high: Tensor, scheme: QuantizationScheme) -> tuple[Tensor, Tensor]:
    """Scale and zero point for values in [low, high], widened to contain 0.

    Args:
        low, high: the range, of one shape (0-d for a tensor, (C,) for channels); low <= high.

    Returns:
        scale: float32 (float64 for float64), positive also where the range is empty.
        zero_point: int32, between the smallest and the largest integer; 0 for a symmetric scheme.
    """
    low, high = _wide(low).clamp(max=0), _wide(high).clamp(min=0)
    if scheme.symmetric:
        scale = _safe(torch.maximum(low.neg(), high) / scheme.highest)
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    scale = _safe((high - low) / (scheme.highest - scheme.lowest))
    zero_point = (scheme.lowest - (low / scale).round()).clamp(scheme.lowest, scheme.highest)
    return scale, zero_point.to(torch.int32)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _safe(scale: Tensor) -> Tensor:
    return scale.clamp(min=torch.finfo(scale.dtype).tiny)
