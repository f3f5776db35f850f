"""Layers as matrices, and two layers in place of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from paredown.framework.surgery import refusal_to_replace
from paredown.framework.weights import COMPUTED
from paredown.modifiers.decomposition.factorization import (
    channel_factors,
    channel_matrix,
    spatial_factors,
    spatial_matrix,
)

__all__ = ["Convolution", "as_matrix", "factorized", "matrix_shape", "reason_to_refuse", "skeleton"]

Convolution = Literal["spatial", "channel"]


def reason_to_refuse(model: nn.Module, name: str, module: nn.Module, states: Mapping[str, Any]) -> str | None:
    """Why a layer cannot be decomposed: depthwise, grouped, tied, masked, quantized, computed weight."""
    if module._parameters.get("weight") is None:
        return COMPUTED
    groups = getattr(module, "groups", 1)
    if groups > 1:
        depthwise = groups == module.in_channels
        return "a depthwise convolution has no rank to take away" if depthwise else "a grouped convolution"
    return refusal_to_replace(model, name, states)


def as_matrix(module: nn.Module, convolution: Convolution) -> Tensor:
    """The weight as the matrix that is factorized, (rows, columns)."""
    parameter: Any = module._parameters["weight"]
    weight: Tensor = parameter.detach()
    if weight.dim() == 2:
        return weight
    return spatial_matrix(weight) if convolution == "spatial" else channel_matrix(weight)


def matrix_shape(module: nn.Module, convolution: Convolution) -> tuple[int, int]:
    """Rows and columns of `as_matrix`."""
    shape: Any = module._parameters["weight"].shape  # type: ignore[union-attr]
    if len(shape) == 2:
        return shape[0], shape[1]
    out, inputs, height, width = shape
    return (inputs * height, width * out) if convolution == "spatial" else (out, inputs * height * width)


def factorized(module: nn.Module, left: Tensor, right: Tensor, convolution: Convolution) -> nn.Sequential:
    """Two ordinary layers that compute what ``module`` would with the weight ``left @ right``.

    Args:
        module: a Linear or an ungrouped Conv2d; its bias is used again, as the very Parameter.
        left, right: (rows, rank) and (rank, columns) of `as_matrix`.
    """
    first: nn.Linear | nn.Conv2d
    second: nn.Linear | nn.Conv2d
    if isinstance(module, nn.Linear):
        first, second = _linear(right), _linear(left)
    elif isinstance(module, nn.Conv2d):
        first, second = _convolutions(module, left, right, convolution)
    else:
        raise TypeError(f"no decomposition of a {type(module).__name__}")
    second.register_parameter("bias", module._parameters["bias"])
    for layer in (first, second):
        layer.train(module.training)
    return nn.Sequential(first, second)


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.contiguous())
    return layer


def _convolutions(module: nn.Conv2d, left: Tensor, right: Tensor, convolution: Convolution) -> tuple[nn.Conv2d, ...]:
    rank = left.shape[1]
    height, width = module.kernel_size
    (down, across), (down_dilation, across_dilation) = module.stride, module.dilation
    if convolution == "channel":
        one, two = channel_factors(left, right, (module.out_channels, module.in_channels, height, width))
        first = _conv(
            module, module.in_channels, rank, module.kernel_size, module.stride, module.padding, module.dilation
        )
        second = _conv(module, rank, module.out_channels, (1, 1), (1, 1), (0, 0), (1, 1))
    else:
        one, two = spatial_factors(left, right, (module.out_channels, module.in_channels, height, width))
        pads = module.padding if isinstance(module.padding, str) else None
        top, side = (pads, pads) if pads else ((module.padding[0], 0), (0, module.padding[1]))
        first = _conv(module, module.in_channels, rank, (height, 1), (down, 1), top, (down_dilation, 1))
        second = _conv(module, rank, module.out_channels, (1, width), (1, across), side, (1, across_dilation))
    first.weight, second.weight = nn.Parameter(one.contiguous()), nn.Parameter(two.contiguous())
    return first, second


def _conv(
    like: nn.Conv2d, inputs: int, outputs: int, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, kernel, stride, padding, dilation, bias=False, padding_mode=like.padding_mode, device="meta"
    )


def skeleton(module: nn.Module, rank: int, convolution: Convolution) -> nn.Sequential:
    """What `factorized` gives, with zeros for contents."""
    rows, columns = matrix_shape(module, convolution)
    weight: Any = module._parameters["weight"]
    return factorized(module, weight.new_zeros(rows, rank), weight.new_zeros(rank, columns), convolution)
