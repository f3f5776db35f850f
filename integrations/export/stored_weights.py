"""A weight as an exporter stores it: codes, scales, zero points, in the layout of ONNX's DequantizeLinear."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import ExportError
from paredown.framework.model.weights import ROWS_FIRST, WeightLayout
from paredown.modifiers.quantization.layers.quantizers import WeightQuantizer, batch_norm_factor
from paredown.modifiers.quantization.numbers.formats import values_of

__all__ = ["CONSTANT", "StoredWeight", "fold_batch_norm", "store_weight"]

FLOAT_CODES = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
#: in the names of codes that are unpacked when the file is opened
CONSTANT = "constant_"
Dequantize = Callable[[Tensor, Tensor, "Tensor | None", int, int, int], Tensor]


@dataclass(frozen=True)
class StoredWeight:
    """Values scale * (codes - zero_point), laid out as codes are and then brought into the weight's shape.

    Attributes:
        codes: int8, uint8, int32 or a float8 type; of the weight's shape, or a matrix for groups.
        scale: 0-d for the whole tensor, (n,) along ``axis``, or the codes' shape with ``axis`` divided by ``group``.
        zero_point: of the codes' type and the scale's shape; None for 0.
        axis: of the codes.
        group: how many consecutive codes along the axis share a scale; 0 without groups.
        shape: of the weight; where ``layout`` says so, of its rows.
        bits: 2 to 8; 32 for a bias.
        turned: codes and scales are transposed: (inputs, outputs).
        constant: they are unpacked once, when the file is opened; the codes' name says so.
        layout: how the weight keeps the rows that are stored.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    axis: int
    group: int
    shape: tuple[int, ...]
    bits: int
    turned: bool = False
    constant: bool = False
    layout: WeightLayout = ROWS_FIRST

    @property
    def channel(self) -> int:
        """The dimension of the codes that counts output channels."""
        return 1 - self.axis if self.group else self.axis

    @property
    def is_float(self) -> bool:
        """Whether the codes are floating-point numbers."""
        return self.codes.is_floating_point()

    def moved_to(self, module: nn.Module, name: str) -> StoredWeight:
        """Make the tensors buffers of a module: ``<name>_codes``, ``<name>_scale``, ``<name>_zero_point``."""
        for part in ("scale", "zero_point", "codes"):
            module._buffers.pop(f"{name}_{part}", None)
            tensor = getattr(self, part)
            if tensor is not None:
                module.register_buffer(self._key(name, part), tensor.contiguous())
        return self

    def removed_from(self, module: nn.Module, name: str) -> None:
        """Take the buffers of `moved_to` off a module."""
        for part in ("scale", "zero_point", "codes"):
            module._buffers.pop(self._key(name, part), None)

    def _key(self, name: str, part: str) -> str:
        return f"{name}_{CONSTANT if self.constant and part == 'codes' else ''}{part}"

    def read_from(self, module: nn.Module, name: str) -> StoredWeight:
        """The same with the module's buffers, which a tracer knows."""
        parts: dict[str, Any] = {part: module._buffers.get(self._key(name, part)) for part in ("codes", "scale")}
        return dataclasses.replace(self, zero_point=module._buffers.get(f"{name}_zero_point"), **parts)

    def spelled(self, module: nn.Module, name: str, dequantize: Dequantize) -> Tensor:
        """The weight's values, written with an exporter's operator, from the module's buffers."""
        return self.read_from(module, name).values(dequantize)

    def values(self, dequantize: Dequantize) -> Tensor:
        """The weight's values, written with an exporter's operator."""
        values = dequantize(self.codes, self.scale, self.zero_point, self.axis, self.group, self.bits)
        values = values.t() if self.turned else values
        return self.layout.kept(values if tuple(values.shape) == self.shape else values.reshape(self.shape))

    def turned_over(self) -> StoredWeight:
        """The same matrix with its codes and scales transposed."""
        scale, zero_point = self.scale, self.zero_point
        if scale.dim() == 2:
            scale, zero_point = scale.t(), None if zero_point is None else zero_point.t()
        return dataclasses.replace(
            self, codes=self.codes.t(), scale=scale, zero_point=zero_point, axis=1 - self.axis, turned=not self.turned
        )

    def outputs(self, start: int, end: int) -> StoredWeight:
        """Of a matrix some of the output channels alone."""
        along = 1 if self.turned else 0
        scale, zero_point = (
            part if part is None or part.dim() == 0 else part.narrow(along if part.dim() > 1 else 0, start, end - start)
            for part in (self.scale, self.zero_point)
        )
        codes, shape = self.codes.narrow(along, start, end - start), (end - start, *self.shape[1:])
        assert scale is not None
        return dataclasses.replace(self, codes=codes, scale=scale, zero_point=zero_point, shape=shape)

    def rows(self, module: nn.Module, name: str, indices: Tensor) -> Tensor:
        """The values of some rows of a table, shape (*indices.shape, columns)."""
        own = self.read_from(module, name)
        codes = _selected(own.codes, indices).to(own.scale.dtype)
        codes = codes.reshape(*codes.shape[:-1], -1, self.group) if self.group else codes
        if own.zero_point is not None:
            codes = codes - _by_row(own.zero_point, indices).to(codes.dtype)
        values = codes * _by_row(own.scale, indices)
        return values.flatten(-2) if self.group else values


def store_weight(module: nn.Module, link: WeightQuantizer, name: str, turned: bool) -> StoredWeight:
    """One weight of a quantized layer.

    Args:
        turned: store a matrix as (inputs, outputs), the order in which engines multiply.
    """
    codes, scale, offset = _parts(module, link, name)
    scheme, shape = link.scheme, tuple(codes.shape)  # output channels first
    if offset.is_floating_point() and bool((offset != offset.round()).any()):
        raise ExportError("its zero points are no integers (half_quadratic): engines cannot hold it; use gptq or awq")
    zero_point = None if scheme.symmetric else offset.to(codes.dtype)
    axis, group = 0, 0
    if scheme.granularity in ("group", "block"):
        rows, group = (1, scheme.group_size or 0) if scheme.block is None else scheme.block
        codes, axis = codes.reshape(shape[0], -1), 1
        scale = scale.repeat_interleave(rows, 0)
        zero_point = None if zero_point is None else zero_point.repeat_interleave(rows, 0)
    elif scheme.granularity == "channel" or link.norm is not None:
        scale, zero_point = scale.flatten(), None if zero_point is None else zero_point.flatten()
    scale, bits = scale.detach().clone(), _stored_bits(link)
    stored = _settled(StoredWeight(codes, scale, zero_point, axis, group, shape, bits, layout=link.layout))
    return stored.turned_over() if turned else _as_kept(stored)


def fold_batch_norm(module: nn.Module, norm: Any, weight: StoredWeight) -> tuple[StoredWeight, Tensor] | None:
    """A layer's codes and bias with the batch-norm behind it; None where the codes do not allow it."""
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    factor = factor if norm.weight is None else factor * norm.weight.double()
    bias = module._parameters.get("bias")
    shift = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean.double()
    moved = shift * factor if norm.bias is None else shift * factor + norm.bias.double()
    negative = factor < 0
    if negative.any() and not weight.is_float and weight.zero_point is None and (weight.codes == -128).any():
        return None
    return _settled(_scaled(weight, factor.to(weight.scale.dtype), negative)), moved.to(weight.scale.dtype)


def _parts(module: nn.Module, link: WeightQuantizer, name: str) -> tuple[Tensor, Tensor, Tensor]:
    codes, (scale, zero_point) = link.row_codes(module, name), link.grid(module, name)
    if link.norm is not None:  # codes of the folded weight: what the layer multiplies by has a scale for each channel
        factor = batch_norm_factor(link.norm, codes.to(scale.dtype))
        codes = torch.where(factor < 0, -codes, codes)
        scale, zero_point = scale / factor.abs(), zero_point.expand_as(factor)
    form = link.scheme.format
    if form in FLOAT_CODES:
        return codes.view(FLOAT_CODES[form]), scale, zero_point
    if form == "fp4_e2m1":  # twice its numbers are integers
        return (values_of(codes, form, torch.float32) * 2).to(torch.int8), scale / 2, zero_point
    return codes, scale, zero_point


def _stored_bits(link: WeightQuantizer) -> int:
    return 8 if link.scheme.format != "int" else int(link.scheme.bits)


def _as_kept(stored: StoredWeight) -> StoredWeight:
    """In the shape in which the layer keeps its weight, where one dimension counts the output channels there too."""
    layout = stored.layout
    if stored.group or layout.groups > 1 or not layout.inputs_first:
        return stored
    codes = layout.kept(stored.codes)
    return dataclasses.replace(stored, codes=codes, axis=1, shape=tuple(codes.shape), layout=ROWS_FIRST)


def _scaled(weight: StoredWeight, factor: Tensor, negative: Tensor) -> StoredWeight:
    """Multiply by a factor per output channel."""
    across = [-1 if place == weight.channel else 1 for place in range(weight.codes.dim())]
    flip = negative.view(across)
    size = factor.abs().unsqueeze(weight.axis) if weight.group else factor.abs()
    zero_point = weight.zero_point
    if weight.is_float:
        codes = torch.where(flip, -weight.codes.float(), weight.codes.float()).to(weight.codes.dtype)
    elif zero_point is None:
        codes = torch.where(flip, -weight.codes, weight.codes)
    else:
        highest = (1 << weight.bits) - 1
        codes = torch.where(flip, highest - weight.codes, weight.codes)
        mirrored = negative.unsqueeze(weight.axis) if weight.group else negative
        zero_point = torch.where(mirrored, highest - zero_point, zero_point)
    return dataclasses.replace(weight, codes=codes, scale=weight.scale * size, zero_point=zero_point)


def _settled(weight: StoredWeight) -> StoredWeight:
    """A scale that is next to nothing stands for zeros only: give it a size that can be divided by."""
    tiny = weight.scale < 1e-30
    if weight.group or weight.scale.dim() != 1 or weight.zero_point is not None or weight.is_float or not tiny.any():
        return weight
    across = [-1 if place == weight.axis else 1 for place in range(weight.codes.dim())]
    codes = torch.where(tiny.view(across), torch.zeros_like(weight.codes), weight.codes)
    usual = weight.scale[~tiny].median() if (~tiny).any() else torch.ones_like(weight.scale[0])
    return dataclasses.replace(weight, codes=codes, scale=torch.where(tiny, usual, weight.scale))


def _by_row(part: Tensor, indices: Tensor) -> Tensor:
    return part if part.dim() == 0 else _selected(part, indices).unsqueeze(-1)


def _selected(table: Tensor, indices: Tensor) -> Tensor:
    return table.index_select(0, indices.reshape(-1)).reshape(*indices.shape, *table.shape[1:])
