"""Quantization as operators of a traced graph, and what they become in ONNX.

`torch.export` keeps each custom operator as one node, and `torch.onnx.export` translates it by a table into
QuantizeLinear, DequantizeLinear and their kin: no graph is searched for patterns afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paredown.integrations.export.calling import require
from paredown.integrations.export.plain_operators import dequantized, dynamic_grid, float_grid
from paredown.integrations.export.spelling import Spelling
from paredown.integrations.export.stored_weights import StoredWeight
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["OnnxSpelling", "translations"]

#: onnx.TensorProto's numbers of types
FLOAT, FLOAT8E4M3FN, FLOAT8E5M2, UINT4, INT4 = 1, 17, 19, 21, 22
#: all codes of uint8, and of int8
WHOLE, SIGNED = (0, 255), (-128, 127)


@torch.library.custom_op("paredown::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, lowest: int, highest: int) -> Tensor:
    """To uint8 codes (int8, where the zero point is) from lowest to highest, and back."""
    offset = zero_point.to(x.dtype)
    return ((torch.round(x / scale) + offset).clamp(lowest, highest) - offset) * scale


@torch.library.custom_op("paredown::round_to_float8", mutates_args=())
def round_to_float8(x: Tensor, wide: bool) -> Tensor:
    """To the numbers of float8_e4m3fn, or e5m2 (wide), saturating at the largest."""
    return float_grid(x, wide)


@torch.library.custom_op("paredown::dynamic_quantize_dequantize", mutates_args=())
def dynamic_quantize_dequantize(x: Tensor) -> Tensor:
    """To the uint8 grid of the values' own range, widened to contain 0, and back."""
    codes, scale, zero_point = _dynamic(x)
    return (codes - zero_point) * scale


@torch.library.custom_op("paredown::dequantize", mutates_args=())
def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group: int, bits: int) -> Tensor:
    """Values of codes: see `StoredWeight`."""
    return dequantized(codes, scale, zero_point, axis, group)


@torch.library.custom_op("paredown::dynamic_linear", mutates_args=())
def dynamic_linear(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Inputs quantized as they come, times symmetric int8 codes (inputs, outputs), summed as integers."""
    inputs, input_scale, zero_point = _dynamic(x)
    sums = (inputs - zero_point) @ codes.to(x.dtype) * (input_scale * scale)
    return sums if bias is None else sums + bias


@quantize_dequantize.register_fake
def _quantize_dequantize_shape(x: Tensor, scale: Tensor, zero_point: Tensor, lowest: int, highest: int) -> Tensor:
    return torch.empty_like(x)


@round_to_float8.register_fake
def _round_to_float8_shape(x: Tensor, wide: bool) -> Tensor:
    return torch.empty_like(x)


@dynamic_quantize_dequantize.register_fake
def _dynamic_shape(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@dequantize.register_fake
def _dequantize_shape(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group: int, bits: int
) -> Tensor:
    return torch.empty_like(codes, dtype=scale.dtype)


@dynamic_linear.register_fake
def _dynamic_linear_shape(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], codes.shape[1])


class OnnxSpelling(Spelling):
    """See `paredown.integrations.export.spelling.Spelling`.

    Args:
        recurrent: whether LSTMs may become an operator of onnxruntime's own.
        narrow: whether groups of narrow weights are left for the runtime to multiply by; else they are unpacked.
        integer_bias: whether biases behind quantized inputs are int32.
        signed: whether codes of symmetric inputs are int8, with the zero point 0.
    """

    def __init__(
        self, recurrent: bool = True, narrow: bool = True, integer_bias: bool = True, signed: bool = False
    ) -> None:
        self.recurrent = recurrent
        self.narrow = narrow
        self.integer_bias = integer_bias
        self.signed = signed

    def zero_point(self, zero_point: Tensor, scheme: ActivationScheme) -> Tensor:
        """In int8 where that is wanted; else in uint8, of signed codes 128 more: onnxruntime 1.32 fails on int8 inputs
        of three dimensions."""
        if self._is_signed(scheme):
            return zero_point.to(torch.int8)
        return (zero_point + (128 if scheme.symmetric else 0)).to(torch.uint8)

    def _is_signed(self, scheme: ActivationScheme) -> bool:
        return self.signed and scheme.symmetric

    def fixed(self, x: Tensor, scale: Tensor, zero_point: Tensor, scheme: ActivationScheme) -> Tensor:
        if scheme.format != "int":
            rounded: Tensor = torch.ops.paredown.round_to_float8(x / scale, scheme.format == "fp8_e5m2")
            return rounded * scale
        signed = self._is_signed(scheme)
        offset = 128 if scheme.symmetric and not signed else 0
        whole = SIGNED if signed else WHOLE
        codes = (scheme.lowest + offset, scheme.highest + offset) if scheme.bits < 8 else whole
        values: Tensor = torch.ops.paredown.quantize_dequantize(x, scale, zero_point, *codes)
        return values

    def dynamic(self, x: Tensor, scheme: ActivationScheme) -> Tensor:
        plain = scheme.format == "int" and scheme.bits == 8 and not scheme.symmetric
        if plain and scheme.granularity == "tensor":
            values: Tensor = torch.ops.paredown.dynamic_quantize_dequantize(x)
            return values
        return dynamic_grid(x, scheme)

    def dequantized(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group: int, bits: int
    ) -> Tensor:
        if zero_point is None and bits in (8, 32) and not group:  # onnxruntime fuses no Gemm without one
            zero_point = torch.zeros_like(scale, dtype=codes.dtype)
        values: Tensor = torch.ops.paredown.dequantize(codes, scale, zero_point, axis, group, bits)
        return values

    def unpacks(self, weight: StoredWeight, linear: bool) -> bool:
        return not (weight.group and linear and self.narrow)  # what MatMulNBits multiplies by

    def dynamic_linear(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor | None:
        if weight.zero_point is not None:
            return None
        values: Tensor = torch.ops.paredown.dynamic_linear(x, weight.codes, weight.scale, bias)
        return values

    def lstm_parts(
        self, weights: Sequence[StoredWeight], biases: Sequence[Tensor | None], ways: int
    ) -> dict[str, Tensor] | None:
        if any(w.group or w.is_float or w.zero_point is not None for w in weights):
            return None
        units = weights[0].codes.shape[0] // 4
        parts: dict[str, Tensor] = {}
        for part, own in (("input", weights[::2]), ("recurrent", weights[1::2])):
            parts[f"{part}_codes"] = torch.stack([_by_gates(w.codes).t() for w in own]).contiguous()
            parts[f"{part}_scale"] = torch.stack([_by_gates(w.scale.expand(4 * units)) for w in own])
            parts[f"{part}_zero_point"] = torch.zeros_like(parts[f"{part}_scale"], dtype=torch.int8)
        whole = [torch.zeros(4 * units) if each is None else _by_gates(each) for each in biases]
        parts["bias"] = torch.stack([torch.cat(whole[2 * way : 2 * way + 2]) for way in range(ways)])
        return parts

    def dynamic_lstm(
        self, x: Tensor, parts: dict[str, Tensor], states: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        (time, batch, _), (ways, _, units) = x.shape, states[0].shape
        quantized = [parts[f"{part}_{what}"] for part in ("input", "recurrent") for what in ("scale", "zero_point")]
        y, hidden, cell = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::DynamicQuantizeLSTM",
            [x, parts["input_codes"], parts["recurrent_codes"], parts["bias"], None, *states, None, *quantized],
            {"hidden_size": units, "direction": "bidirectional" if ways == 2 else "forward"},
            dtypes=[x.dtype] * 3,
            shapes=[(time, ways, batch, units), (ways, batch, units), (ways, batch, units)],
            version=1,
        )
        return y.permute(0, 2, 1, 3).flatten(2), hidden, cell

    def writes_lstm(self) -> bool:
        return self.recurrent

    def writes_integer_bias(self) -> bool:
        return self.integer_bias


def _by_gates(rows: Tensor) -> Tensor:
    """Rows of an LSTM's gates (input, forget, cell, output) in ONNX's order (input, output, forget, cell)."""
    enter, forget, new, leave = rows.chunk(4, 0)
    return torch.cat([enter, leave, forget, new])


def translations() -> dict[Any, Callable[..., Any]]:
    """For ``custom_translation_table`` of `torch.onnx.export`: from our operators to ONNX's (opset 21)."""
    op: Any = require("onnxscript", "onnx").opset21

    def to_quantize(x: Any, scale: Any, zero_point: Any, lowest: int, highest: int) -> Any:
        codes = op.QuantizeLinear(x, scale, zero_point)
        if (lowest, highest) not in (WHOLE, SIGNED):  # onnxruntime leaves out a Clip before QuantizeLinear, as if uint8
            codes = op.Clip(codes, *(op.Constant(value=_code(end, lowest < 0)) for end in (lowest, highest)))
        return op.DequantizeLinear(codes, scale, zero_point)

    def to_float8(x: Any, wide: bool) -> Any:
        return op.Cast(op.Cast(x, to=FLOAT8E5M2 if wide else FLOAT8E4M3FN), to=FLOAT)

    def to_dynamic(x: Any) -> Any:
        return op.DequantizeLinear(*op.DynamicQuantizeLinear(x))

    def to_dequantize(codes: Any, scale: Any, zero_point: Any, axis: int, group: int, bits: int) -> Any:
        narrow = {"INT8": INT4, "UINT8": UINT4}.get(codes.dtype.name) if bits <= 4 else None
        given = [codes] if zero_point is None else [codes, zero_point]
        packed = [value if narrow is None else op.Cast(value, to=narrow) for value in given]
        return op.DequantizeLinear(packed[0], scale, *packed[1:], axis=axis, **({"block_size": group} if group else {}))

    def to_linear(x: Any, codes: Any, scale: Any, bias: Any) -> Any:
        inputs, input_scale, zero_point = op.DynamicQuantizeLinear(x)
        sums = op.Cast(op.MatMulInteger(inputs, codes, zero_point), to=FLOAT)
        values = op.Mul(sums, op.Mul(input_scale, scale))
        return values if bias is None else op.Add(values, bias)

    ours = torch.ops.paredown
    return {
        ours.quantize_dequantize.default: to_quantize,
        ours.round_to_float8.default: to_float8,
        ours.dynamic_quantize_dequantize.default: to_dynamic,
        ours.dequantize.default: to_dequantize,
        ours.dynamic_linear.default: to_linear,
    }


def _code(value: int, signed: bool) -> Any:
    """A constant in uint8 or int8."""
    return require("onnx", "onnx").numpy_helper.from_array(np.array(value, dtype=np.int8 if signed else np.uint8))


def _dynamic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(x.dtype).tiny)
    zero_point = torch.round(-low / scale).clamp(0, 255)
    return (torch.round(x / scale) + zero_point).clamp(0, 255), scale, zero_point
