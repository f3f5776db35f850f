"""The links around a quantized layer's forward: one quantizes, one watches the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.managed import Link
from paredown.modifiers.quantization.fake_quantize import fake_quantize, fake_quantize_weight, quantize
from paredown.modifiers.quantization.observers import OBSERVERS, extremes, unseen_range
from paredown.modifiers.quantization.scheme import (
    ActivationScheme,
    QuantizationScheme,
    WeightScheme,
    affine_parameters,
    weight_scale,
)

__all__ = ["InputObserver", "Quantizer", "Range", "add_buffers", "remove_buffers"]

BUFFERS = ("weight_scale", "weight_zero_point", "input_scale", "input_zero_point")


@dataclass
class Range:
    """The smallest and largest input that a layer has seen; +inf and -inf before the first."""

    low: Tensor
    high: Tensor

    @classmethod
    def unseen(cls, device: torch.device) -> Range:
        return cls(*unseen_range(device=device))

    @property
    def seen(self) -> bool:
        return bool(self.low <= self.high)


class Quantizer(Link):
    """Quantizes the weight and the input of one layer. Part of the model: it is copied and pickled with it.

    Its numbers are buffers of the layer: ``weight_scale``, ``input_scale``, ``input_zero_point`` and, for affine
    weights, ``weight_zero_point``.
    """

    permanent = True

    def __init__(self, weights: WeightScheme, activations: ActivationScheme | None) -> None:
        self.weights = weights
        self.activations = activations

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if self.activations is not None and args:
            args = (self._input(args[0], module), *args[1:])
        elif self.activations is not None and "input" in kwargs:
            kwargs["input"] = self._input(kwargs["input"], module)
        weight = module._parameters["weight"]
        module._parameters["weight"] = self._weight(module)  # type: ignore[assignment]
        try:
            return call(module, *args, **kwargs)
        finally:
            module._parameters["weight"] = weight

    def stored_codes(self, module: nn.Module) -> Mapping[str, tuple[Tensor, int]]:
        """The weight as it would be stored: its integers, and their width in bits."""
        weight: Any = module._parameters["weight"]
        scale, zero_point = _weight_grid(weight, self.weights)
        return {"weight": (quantize(weight, scale, zero_point, self.weights), self.weights.bits)}

    def _weight(self, module: nn.Module) -> Tensor:
        weight: Any = module._parameters["weight"]
        scale, zero_point = _weight_grid(weight, self.weights)
        with torch.no_grad():
            module.weight_scale.copy_(scale)  # type: ignore[operator]
            if not self.weights.symmetric:
                module.weight_zero_point.copy_(zero_point)  # type: ignore[operator]
        if self.weights.symmetric:
            return fake_quantize_weight(weight, scale)
        return fake_quantize(weight, scale, zero_point, self.weights)

    def _input(self, x: Tensor, module: nn.Module) -> Tensor:
        assert self.activations is not None
        scale: Any = module.input_scale
        zero_point: Any = module.input_zero_point
        if torch.compiler.is_compiling():
            return torch.where(scale > 0, fake_quantize(x, scale, zero_point, self.activations), x)
        return fake_quantize(x, scale, zero_point, self.activations) if scale > 0 else x  # 0: no input was seen yet


class InputObserver(Link):
    """Follows the range of a layer's inputs, and sets the layer's scale and zero point from it.

    Args:
        range: what is updated, in place.
        scheme: names the observer.
        always: in eval mode too, for calibration.
    """

    def __init__(self, range: Range, scheme: QuantizationScheme, always: bool = False) -> None:
        self.range = range
        self.scheme = scheme
        self.always = always
        self.follow_ = OBSERVERS[scheme.observer]

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if module.training or self.always:
            self._observe(args[0] if args else kwargs["input"], module)
        return call(module, *args, **kwargs)

    def _observe(self, x: Tensor, module: nn.Module) -> None:
        if not x.numel():
            return
        with torch.no_grad():
            self.follow_(self.range.low, self.range.high, *extremes(x))
            scale, zero_point = affine_parameters(self.range.low, self.range.high, self.scheme)
            module.input_scale.copy_(scale)  # type: ignore[operator]
            module.input_zero_point.copy_(zero_point)  # type: ignore[operator]


def add_buffers(module: nn.Module, weights: WeightScheme, activations: ActivationScheme | None) -> None:
    """Register what the quantizer of a layer reads, where it is not there yet; a scale of 0 stands for none yet."""
    weight: Any = module._parameters["weight"]
    scale, zero_point = _weight_grid(weight, weights)
    wanted = {"weight_scale": scale}
    if not weights.symmetric:
        wanted["weight_zero_point"] = zero_point
    if activations is not None:
        wanted["input_scale"] = torch.zeros((), device=weight.device)
        wanted["input_zero_point"] = torch.zeros((), dtype=torch.int32, device=weight.device)
    for name, value in wanted.items():
        if name not in module._buffers:
            module.register_buffer(name, value.clone())


def remove_buffers(module: nn.Module) -> None:
    """Take away what `add_buffers` registered."""
    for name in BUFFERS:
        module._buffers.pop(name, None)


def _weight_grid(weight: Tensor, scheme: WeightScheme) -> tuple[Tensor, Tensor]:
    if scheme.symmetric:
        scale = weight_scale(weight, scheme)
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    if scheme.granularity == "tensor":
        return affine_parameters(*extremes(weight), scheme)
    shape = (-1, *[1] * (weight.dim() - 1))
    scale, zero_point = affine_parameters(*extremes(weight, 0), scheme)
    return scale.view(shape), zero_point.view(shape)
