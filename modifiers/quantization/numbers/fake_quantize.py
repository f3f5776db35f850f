"""Fake quantization: values on the grid, kept as floating point, with straight-through gradients.

Rounding is to the nearest, ties to even; its gradient is taken as 1 (Bengio et al., 2013, arXiv:1308.3432), and that of
the clipping is 1 inside the range, its ends included, and 0 outside. In eager mode on a CPU it is a few in-place
passes, which took 1 ms where torch's own `fake_quantize_per_tensor_affine` took 28; under `torch.compile` plain
operations are used, which the compiler fuses.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from paredown.modifiers.quantization.numbers.formats import (
    FLOAT_FORMATS,
    float_codes,
    round_float_,
    round_integer_,
    values_of,
)
from paredown.modifiers.quantization.numbers.scheme import QuantizationScheme

__all__ = ["clip_limits", "dequantize", "fake_quantize", "quantize", "round_through", "rounded"]


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor | int, scheme: QuantizationScheme) -> Tensor:
    """The codes of ``x``; S and Z broadcast against it.

    Returns:
        clamp(round(x / S) + Z) as int8 (symmetric) or uint8; of a floating-point format the bit patterns as uint8.
    """
    scaled = _wide(x.detach()) / scale
    form = FLOAT_FORMATS.get(scheme.format)
    if form is not None:
        return float_codes(round_float_(scaled, form), scheme.format)
    integers = scaled.round_().add_(zero_point).clamp_(scheme.lowest, scheme.highest)
    return integers.to(torch.int8 if scheme.symmetric else torch.uint8)


def dequantize(
    codes: Tensor, scale: Tensor, zero_point: Tensor | int, scheme: QuantizationScheme | None = None
) -> Tensor:
    """The values S (q - Z) of codes, in the scale's type; without a scheme the codes are integers."""
    if scheme is not None and scheme.format != "int":
        return values_of(codes, scheme.format, scale.dtype) * scale
    return (codes.to(scale.dtype) - zero_point) * scale


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | int, scheme: QuantizationScheme, stochastic: bool = False
) -> Tensor:
    """``dequantize(quantize(x))`` in the shape and type of ``x``, differentiable in ``x``.

    Args:
        x: floating point; float16 and bfloat16 are rounded in float32.
        scale, zero_point: of `affine_parameters` or `weight_parameters`, broadcasting against ``x``.
        stochastic: round up with the probability of the remainder.
    """
    low, high = clip_limits(scale, zero_point, scheme)
    whole = scheme.format == "int" and scale.numel() == 1 and not stochastic
    if whole and x.device.type == "cpu" and not torch.compiler.is_compiling():
        result: Tensor = _ClipAndRound.apply(x, low.item(), high.item(), scale.item())  # type: ignore[no-untyped-call]
        return result
    clipped = torch.clamp(x, low.to(x.dtype), high.to(x.dtype))
    return round_through(clipped, scale, scheme, stochastic, clip=False)


def round_through(
    x: Tensor, scale: Tensor, scheme: QuantizationScheme, stochastic: bool = False, clip: bool = True
) -> Tensor:
    """To a symmetric grid with the gradient 1 everywhere: for a scale that follows the largest magnitude.

    Args:
        clip: bring what rounds beyond the ends of the grid back to them (forwards only). Nothing does where the largest
            magnitude is the largest number of the grid.
    """
    result: Tensor = _Round.apply(x, scale, scheme, stochastic, clip)  # type: ignore[no-untyped-call]
    return result


def rounded(x: Tensor, scale: Tensor, scheme: QuantizationScheme, stochastic: bool, clip: bool) -> Tensor:
    """`round_through` without a gradient."""
    scaled = _wide(x) / scale
    form = FLOAT_FORMATS.get(scheme.format)
    if form is not None:
        scaled = round_float_(scaled, form, stochastic)
    else:
        scaled = round_integer_(scaled, stochastic)
        scaled = scaled.clamp_(scheme.lowest, scheme.highest) if clip else scaled
    return scaled.mul_(scale).to(x.dtype)


def clip_limits(scale: Tensor, zero_point: Tensor | int, scheme: QuantizationScheme) -> tuple[Tensor, Tensor]:
    """The smallest and largest value of a grid, in the scale's shape."""
    if scheme.format != "int":
        high = scale * FLOAT_FORMATS[scheme.format].largest
        return high.neg(), high
    zero_point = torch.as_tensor(zero_point, device=scale.device)
    return (scheme.lowest - zero_point) * scale, (scheme.highest - zero_point) * scale


class _Round(torch.autograd.Function):
    """To the grid; the gradient passes through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, scheme: QuantizationScheme, stochastic: bool, clip: bool) -> Tensor:
        result = rounded(x, scale, scheme, stochastic, clip)
        if torch.compiler.is_compiling():  # or inductor fuses this with a convolution's copy, 5 times as slow
            return result.as_strided(result.shape, result.stride())
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        return grad, None, None, None, None


class _ClipAndRound(torch.autograd.Function):
    """To the grid and into [low, high]; the gradient passes through inside of it, ends included."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, scale: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.range = low, high
        return torch.clamp(_wide(x), low, high).div_(scale).round_().mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.range  # float32 steps outwards: hardtanh's gradient is 0 at the ends themselves
        return (
            torch.ops.aten.hardtanh_backward(grad, x, _below(low, x.dtype), -_below(-high, x.dtype)),
            None,
            None,
            None,
        )


def _below(value: float, dtype: torch.dtype) -> float:
    if dtype == torch.float64:
        return math.nextafter(value, -math.inf)
    return torch.nextafter(torch.tensor(value), torch.tensor(-math.inf)).item()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
