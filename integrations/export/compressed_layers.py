"""One quantized layer in the formats of compressed-tensors: its tensors, and its lines in the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import ExportError
from paredown.framework.model.links import Link
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, WeightQuantizer
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme, QuantizationScheme, WeightScheme

__all__ = ["Quantized", "compressed_tensors_of", "pack", "scheme_of"]

FLOAT8 = "fp8_e4m3"


@dataclass(frozen=True)
class Quantized:
    """How a layer is quantized.

    Attributes:
        weights: the quantizer of its weight.
        inputs: of its input, if it has one.
        scheme: its entry in the configuration: format, weights, input_activations.
    """

    weights: WeightQuantizer
    inputs: ActivationQuantizer | None
    scheme: dict[str, Any]

    @property
    def buffers(self) -> tuple[str, ...]:
        """The names of the quantizers' buffers in the module."""
        return tuple(f"{place}_{part}" for place in ("weight", "input") for part in ("scale", "zero_point"))


def scheme_of(module: nn.Module, links: Sequence[Link]) -> Quantized:
    """How the layer is written.

    Raises:
        ExportError: in no way; the reason.
    """
    weights = next((link for link in links if isinstance(link, WeightQuantizer)), None)
    inputs = [link for link in links if isinstance(link, ActivationQuantizer)]
    if not isinstance(module, (nn.Linear, nn.Embedding)):
        raise ExportError("compressed-tensors stores linear layers and embeddings only")
    if weights is None:
        raise ExportError("its inputs are quantized and its weight is not")
    if any(link.place == "output" for link in inputs) or len(inputs) > 1:
        raise ExportError("quantized outputs have no place in the folder")
    scheme = {
        "format": _format(weights.scheme, isinstance(module, nn.Embedding)),
        "weights": _weights(weights.scheme),
        "input_activations": _activations(inputs[0]) if inputs else None,
    }
    return Quantized(weights, inputs[0] if inputs else None, scheme)


def compressed_tensors_of(module: nn.Module, layer: Quantized) -> dict[str, Tensor]:
    """The tensors of a layer by name: weight or weight_packed and weight_shape, weight_scale, input_scale and so on."""
    weight: Any = module._parameters["weight"]
    codes = layer.weights.codes(module, "weight")
    scale = layer.weights.grid(module, "weight")[0].detach().to(weight.dtype)
    tensors = {"weight_scale": scale.reshape(1) if scale.dim() == 0 else scale}
    if layer.scheme["format"] == "pack-quantized":
        tensors["weight_packed"] = pack(codes, int(layer.weights.scheme.bits))
        tensors["weight_shape"] = torch.tensor(codes.shape, dtype=torch.int64)
    else:
        tensors["weight"] = codes.view(torch.float8_e4m3fn) if layer.weights.scheme.format == FLOAT8 else codes
    if layer.inputs is not None and not layer.inputs.dynamic:
        tensors |= _input_tensors(module, layer.inputs, weight.dtype)
    return tensors


def pack(codes: Tensor, bits: int) -> Tensor:
    """Signed codes (rows, columns) into int32 (rows, ceil(columns * bits / 32)).

    Codes are stored plus 2^(bits-1), the first in the lowest bits, 32 // bits in a word.
    """
    per_word = 32 // bits
    unsigned = codes.to(torch.int64) + (1 << bits - 1)
    padded = nn.functional.pad(unsigned, (0, -unsigned.shape[1] % per_word))
    words = padded.reshape(len(padded), -1, per_word) << (torch.arange(per_word) * bits)
    packed: Tensor = words.sum(-1).to(torch.int32)
    return packed


def _format(scheme: WeightScheme, is_table: bool) -> str:
    if not scheme.symmetric:
        raise ExportError("transformers fails to load asymmetric weights: use symmetric: true")
    if scheme.granularity == "block":
        raise ExportError("granularity block is not written")
    if scheme.format == FLOAT8 and scheme.granularity in ("tensor", "channel"):
        return "float-quantized"
    if scheme.format != "int":
        raise ExportError(f"weights of the format {scheme.format} ({scheme.granularity}) are not written")
    if scheme.bits not in (4, 8):
        raise ExportError(f"weights of {scheme.bits} bits are not written: 4 and 8 are")
    whole = scheme.bits == 8 and scheme.granularity != "group"
    return "int-quantized" if whole or is_table else "pack-quantized"  # transformers fails on packed tables


def _weights(scheme: WeightScheme) -> dict[str, Any]:
    return {**_numbers(scheme), "strategy": scheme.granularity, "group_size": scheme.group_size, "dynamic": False}


def _activations(link: ActivationQuantizer) -> dict[str, Any]:
    scheme: ActivationScheme = link.scheme
    if scheme.format not in ("int", FLOAT8):
        raise ExportError(f"inputs of the format {scheme.format} are not written")
    if link.dynamic and scheme.symmetric and scheme.narrow and scheme.format == "int":
        raise ExportError("compressed-tensors uses the whole range for symmetric dynamic inputs: set narrow: false")
    return {**_numbers(scheme), "strategy": scheme.granularity, "dynamic": link.dynamic}


def _numbers(scheme: QuantizationScheme) -> dict[str, Any]:
    kind = "int" if scheme.format == "int" else "float"
    return {"num_bits": scheme.bits, "type": kind, "symmetric": scheme.symmetric}


def _input_tensors(module: nn.Module, link: ActivationQuantizer, dtype: torch.dtype) -> dict[str, Tensor]:
    """compressed-tensors counts asymmetric codes from -2^(bits-1)."""
    scale, zero_point = (module._buffers[f"input_{part}"] for part in ("scale", "zero_point"))
    if scale is None or zero_point is None or not scale > 0:
        raise ExportError("its input's range has not been seen yet")
    tensors = {"input_scale": scale.detach().to(dtype).reshape(1)}
    if not link.scheme.symmetric:
        tensors["input_zero_point"] = (zero_point - (1 << link.scheme.bits - 1)).to(torch.int8).reshape(1)
    return tensors
