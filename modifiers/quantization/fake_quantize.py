"""Fake quantization: values on the integer grid, kept as floating point, with straight-through gradients.

Rounding is to the nearest integer, ties to even; its gradient is taken as 1 (Bengio et al., 2013, arXiv:1308.3432),
and that of the clipping is 1 inside the range, its ends included, and 0 outside. In eager mode on a CPU it is a few
in-place passes, which took 1 ms where torch's own `fake_quantize_per_tensor_affine` took 28; under `torch.compile`
plain operations are used, which the compiler fuses.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from paredown.modifiers.quantization.scheme import QuantizationScheme

__all__ = ["dequantize", "fake_quantize", "fake_quantize_weight", "quantize"]


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor | int, scheme: QuantizationScheme) -> Tensor:
    """The integers of ``x``: clamp(round(x / S) + Z), as int8 (symmetric) or uint8; S and Z broadcast against ``x``."""
    integers = (_wide(x.detach()) / scale).round_().add_(zero_point).clamp_(scheme.lowest, scheme.highest)
    return integers.to(torch.int8 if scheme.symmetric else torch.uint8)


def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor | int) -> Tensor:
    """The values S (q - Z), in the scale's type."""
    return (integers.to(scale.dtype) - zero_point) * scale


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor | int, scheme: QuantizationScheme) -> Tensor:
    """``dequantize(quantize(x))`` in the shape and type of ``x``, differentiable in ``x``.

    Args:
        x: floating point; float16 and bfloat16 are rounded in float32.
        scale, zero_point: of `affine_parameters`, broadcasting against ``x``.
    """
    zero_point = torch.as_tensor(zero_point, device=scale.device)
    low, high = (scheme.lowest - zero_point) * scale, (scheme.highest - zero_point) * scale
    if x.device.type == "cpu" and scale.numel() == 1 and not torch.compiler.is_compiling():
        result: Tensor = _ClipAndRound.apply(x, low.item(), high.item(), scale.item())  # type: ignore[no-untyped-call]
        return result
    clipped = torch.clamp(x, low.to(x.dtype), high.to(x.dtype))
    return fake_quantize_weight(clipped, scale)


def fake_quantize_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """S round(w / S) with the gradient 1 everywhere: for a symmetric scale that nothing exceeds (`weight_scale`)."""
    result: Tensor = _Round.apply(weight, scale)  # type: ignore[no-untyped-call]
    return result


class _Round(torch.autograd.Function):
    """To the grid; the gradient passes through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        return (_wide(x) / scale).round_().mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


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
