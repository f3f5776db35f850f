"""Quantization in the operators of ``torch.ops.quantized_decomposed``, which PyTorch's own compilers recognise."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import torch
from torch import Tensor

from paredown.integrations.export.plain_operators import dequantized, dynamic_grid, float_grid
from paredown.integrations.export.spelling import Spelling
from paredown.integrations.export.stored_weights import StoredWeight
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["DecomposedSpelling", "decomposed"]

#: the least scale that is found at run time
TINY = torch.finfo(torch.float32).tiny


def decomposed() -> Any:
    """The operators; torch registers them where this module of its own is imported."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    return torch.ops.quantized_decomposed


class DecomposedSpelling(Spelling):
    """See `paredown.integrations.export.spelling.Spelling`.

    Weights that meet quantized inputs are int8 without a zero point; all others are dequantized in plain operators.

    Args:
        signed: activations are int8, else uint8; the numbers that they stand for are the same.
        rounds_bias: whether the engine rounds biases to int32 by itself.
    """

    def __init__(self, signed: bool, rounds_bias: bool) -> None:
        self.operators = decomposed()
        self.bias = rounds_bias
        self.kind = torch.int8 if signed else torch.uint8
        #: the lowest code of a type, and how much more uint8 is
        self.codes, self.signed = ((-128, 127) if signed else (0, 255)), signed

    def zero_point(self, zero_point: Tensor, scheme: ActivationScheme) -> Tensor:
        return zero_point + self._offset(scheme)

    def _offset(self, scheme: ActivationScheme) -> int:
        """How much larger codes are than the scheme's, which are signed where it is symmetric."""
        return self.codes[0] + (128 if scheme.symmetric else 0)

    def fixed(self, x: Tensor, scale: Any, zero_point: Any, scheme: ActivationScheme) -> Tensor:
        if scheme.format != "int":
            rounded: Tensor = float_grid(x / scale, scheme.format == "fp8_e5m2") * scale
            return rounded
        if scheme.bits < 8:  # kernels round to all 256 codes
            origin = zero_point - self._offset(scheme)
            x = x.clamp((scheme.lowest - origin) * scale, (scheme.highest - origin) * scale)
        codes = self.operators.quantize_per_tensor.default(x, scale, zero_point, *self.codes, self.kind)
        values: Tensor = self.operators.dequantize_per_tensor.default(codes, scale, zero_point, *self.codes, self.kind)
        return values

    def writes_numbers(self) -> bool:
        return True

    def stored(self, weight: StoredWeight) -> StoredWeight:
        if weight.constant or weight.group or weight.is_float or weight.zero_point is not None:
            return weight
        straight = weight.turned_over() if weight.turned else weight
        scale = straight.scale.expand(straight.codes.shape[straight.axis])
        return dataclasses.replace(straight, scale=scale, zero_point=torch.zeros_like(scale, dtype=torch.int64))

    def dynamic(self, x: Tensor, scheme: ActivationScheme) -> Tensor:
        plain = scheme.format == "int" and scheme.bits == 8 and not scheme.symmetric
        if not plain or scheme.granularity != "tensor":
            return dynamic_grid(x, scheme)
        grid = self.operators.choose_qparams.tensor(x, *self.codes, TINY, self.kind)
        codes = self.operators.quantize_per_tensor.tensor(x, *grid, *self.codes, self.kind)
        values: Tensor = self.operators.dequantize_per_tensor.tensor(codes, *grid, *self.codes, self.kind)
        return values

    def dequantized(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group: int, bits: int
    ) -> Tensor:
        if zero_point is None or zero_point.dtype != torch.int64:  # `stored` left it as it was
            return dequantized(codes, scale, zero_point, axis, group)
        values: Tensor = self.operators.dequantize_per_channel.default(
            codes, scale, zero_point, axis, -128, 127, torch.int8
        )
        return values

    def unpacks(self, weight: StoredWeight, linear: bool) -> bool:
        return True

    def rounds_bias(self) -> bool:
        return self.bias
