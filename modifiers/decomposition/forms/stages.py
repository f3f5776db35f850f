"""Ordinary layers, one after the other, that compute what one layer did: a stage each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from paredown.framework.model.kinds import CONVOLUTION_BY_AXES, TRANSPOSED_BY_AXES
from paredown.modifiers.decomposition.forms.geometry import Geometry

__all__ = ["chain", "weights_of_chain"]


def chain(
    geometry: Geometry, weights: Sequence[Tensor], axes: Sequence[Sequence[int]], bias: nn.Parameter | None
) -> nn.Sequential:
    """The layers of a chain.

    Args:
        geometry: of the layer whose place it takes.
        weights: of each stage, (groups, out, in, positions): channels to channels of each group.
        axes: of each stage, the axes of space that it covers; each axis is covered once.
        bias: of the last layer, taken as the very Parameter.
    """
    if geometry.kind == "embedding":
        layers = [_embedding(geometry, weights[0]), *(_linear(weight) for weight in weights[1:])]
    elif geometry.kind == "linear":
        layers = [_linear(weight) for weight in weights]
    else:
        layers = [_convolution(geometry, weight, along) for weight, along in zip(weights, axes, strict=True)]
    if bias is not None:
        layers[-1].register_parameter("bias", bias)
    return nn.Sequential(*layers)


def weights_of_chain(geometry: Geometry, layers: nn.Module) -> list[Tensor]:
    """The weights that `chain` was given, from the layers that it made."""
    return [_stage_weight(geometry, layer) for layer in layers.children()]


def _stage_weight(geometry: Geometry, layer: Any) -> Tensor:
    weight: Tensor = layer.weight.detach()
    if isinstance(layer, nn.Embedding):
        return weight.T[None, :, :, None]
    if geometry.kind != "convolution":
        return weight[None, :, :, None]
    groups = layer.groups
    flat = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return flat.transpose(1, 2) if geometry.kernel.transposed else flat


def _linear(weight: Tensor) -> nn.Linear:
    flat = weight[0, :, :, 0]
    layer = nn.Linear(flat.shape[1], flat.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(flat.contiguous())
    return layer


def _embedding(geometry: Geometry, weight: Tensor) -> nn.Embedding:
    rows = weight[0, :, :, 0].T
    layer = nn.Embedding(len(rows), rows.shape[1], device="meta", **geometry.options)
    layer.weight = nn.Parameter(rows.contiguous())
    return layer


def _convolution(geometry: Geometry, weight: Tensor, along: Sequence[int]) -> nn.Module:
    groups, out, inputs, _ = weight.shape
    kernel = geometry.kernel.along(along)
    arguments: dict[str, Any] = {
        "kernel_size": kernel.size,
        "stride": kernel.stride,
        "padding": kernel.padding,
        "dilation": kernel.dilation,
        "groups": groups,
        "bias": False,
        "padding_mode": kernel.padding_mode,
        "device": "meta",
    }
    if kernel.transposed:
        arguments["output_padding"] = kernel.output_padding
        weight = weight.transpose(1, 2)
    kinds: Mapping[int, Any] = TRANSPOSED_BY_AXES if kernel.transposed else CONVOLUTION_BY_AXES
    layer: nn.Module = kinds[len(kernel.size)](groups * inputs, groups * out, **arguments)
    contents = weight.reshape(-1, weight.shape[2], *kernel.size).contiguous()
    layer.register_parameter("weight", nn.Parameter(contents))
    return layer
