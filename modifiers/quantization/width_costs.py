"""What layers cost at a width: in bytes, in bit operations, or in time in the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.calibration.layer_inputs import layer_inputs
from paredown.framework.engine.plain import plain_copy
from paredown.framework.errors import ScheduleError
from paredown.framework.measure.counts import measure_model
from paredown.framework.model.links import add_link
from paredown.framework.model.weights import WeightLayout
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.kinds import weight_names
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, WeightQuantizer
from paredown.modifiers.quantization.layers.schemes import LayerSchemes
from paredown.modifiers.quantization.numbers.observers import Observation
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme, WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import view_of

__all__ = ["Treated", "WidthCosts", "width_costs"]

Treated = Mapping[str, tuple[nn.Module, LayerSchemes]]
#: what a scale takes
SCALE_BITS = 32
#: the widths in which weights that are unpacked, or multiplied by, are stored
BYTE, HALF = 8, 4
#: of the whole model's time: what two measurements of one file are apart
SLACK = 0.02


def width_costs(training: Training, kind: str, layers: Treated, dynamic: bool = False) -> WidthCosts:
    """The costs of a kind.

    Raises:
        ScheduleError: it needs example inputs or an engine.
    """
    if kind == "latency":
        return Times.measured(training, layers, dynamic)
    if kind == "bytes":
        return Bytes()
    if training.data.example_inputs is None:
        raise ScheduleError(f"{training.name}: a budget of bit_operations needs example_inputs")
    measured = measure_model(training.model, training.data.example_inputs).layers
    return BitOperations({layer.name: layer.macs or 0 for layer in measured})


class WidthCosts(ABC):
    """What layers cost."""

    def beyond(self, training: Training, layers: Treated, widths: Mapping[str, int | None], share: float) -> float:
        """How much more than a share the whole model costs with layers at these widths, where costs do not add up."""
        return 0.0

    @abstractmethod
    def of_layer(self, name: str, module: nn.Module, schemes: LayerSchemes, bits: int | None) -> float:
        """Of one layer with weights of ``bits``; None: of its own type."""

    def allowed(self, layers: Treated, share: float) -> float:
        """What layers may cost together under a share."""
        return share * sum(self.of_layer(name, module, schemes, None) for name, (module, schemes) in layers.items())


class Bytes(WidthCosts):
    """Bytes of weights, scales included."""

    def of_layer(self, name: str, module: nn.Module, schemes: LayerSchemes, bits: int | None) -> float:
        weights: Sequence[Any] = [module._parameters[key] for key in weight_names(module)]
        rows = [WeightLayout.of(module).rows(weight.detach()) for weight in weights]
        scales = 0 if bits is None else sum(_scales(each, schemes.weights) for each in rows)
        count: int = sum(weight.numel() for weight in weights)
        return float(count * (bits or _own_width(module)) + scales * SCALE_BITS) / 8


@dataclass(frozen=True)
class BitOperations(WidthCosts):
    """Multiply-accumulates, by layer, times the widths of weights and inputs."""

    macs: Mapping[str, int]

    def of_layer(self, name: str, module: nn.Module, schemes: LayerSchemes, bits: int | None) -> float:
        own = _own_width(module)
        inputs = own if bits is None or schemes.activations is None else schemes.activations.width
        return float(self.macs.get(name, 0) * (bits or own) * inputs)


@dataclass(frozen=True)
class Times(WidthCosts):
    """Milliseconds in the engine.

    Attributes:
        times: by layer and stored width; None: of its own type.
        inputs: by layer, of those that are reached.
        whole: what the model takes with all of them in their own type.
        dynamic: whether inputs are quantized as they come.
    """

    times: Mapping[tuple[str, int | None], float]
    inputs: Mapping[str, Tensor]
    whole: float
    dynamic: bool

    @classmethod
    def measured(cls, training: Training, layers: Treated, dynamic: bool) -> Times:
        """Each layer alone, as it is and at the widths that are stored otherwise, and the whole model as it is."""
        table, example = training.layer_times, training.data.example()
        if table is None or example is None:
            raise ScheduleError(
                f"{training.name}: a budget of latency for bits: auto needs an engine whose kernels are timed, "
                "run: {engine: onnxruntime}, and example_inputs"
            )
        inputs = layer_inputs(training, layers)
        times: dict[tuple[str, int | None], float] = {}
        for name, x in inputs.items():
            module, schemes = layers[name]
            times[name, None] = table.milliseconds(plain_copy(module), _arguments(module, x))
            for bits in (BYTE,) if schemes.activations is not None else (BYTE, HALF):
                copied = _quantized_(plain_copy(module), schemes, bits, x, dynamic)
                times[name, bits] = table.milliseconds(copied, _arguments(module, x))
        whole = training.latency({"it": plain_copy(training.model)}, *example)["it"].median
        return cls(times, inputs, whole, dynamic)

    def of_layer(self, name: str, module: nn.Module, schemes: LayerSchemes, bits: int | None) -> float:
        stored = None if bits is None else HALF if schemes.activations is None and bits <= HALF else BYTE
        return self.times.get((name, stored), 0.0)

    def allowed(self, layers: Treated, share: float) -> float:
        """A share of the whole model's time, without what the rest of it takes."""
        own = sum(self.of_layer(name, *each, None) for name, each in layers.items())
        return share * self.whole - (self.whole - own)

    def beyond(self, training: Training, layers: Treated, widths: Mapping[str, int | None], share: float) -> float:
        """Measured: next to each other layers are faster or slower than alone."""
        example = training.data.example()
        assert example is not None
        model = plain_copy(training.model)
        for name, bits in widths.items():
            if bits is not None and name in self.inputs:
                _quantized_(model.get_submodule(name), layers[name][1], bits, self.inputs[name], self.dynamic)
        took = training.latency({"it": model}, *example)["it"].median
        return max(took - (share + SLACK) * self.whole, 0.0)


def _quantized_(layer: nn.Module, schemes: LayerSchemes, bits: int, x: Tensor, dynamic: bool) -> nn.Module:
    """A layer with quantizers of its weights and inputs."""
    assert schemes.weights is not None
    scheme: WeightScheme = schemes.weights.at_width(bits)
    add_link(layer, WeightQuantizer(scheme, weight_names(layer), WeightLayout.of(layer)))
    if schemes.activations is not None:
        add_link(layer, _inputs(layer, schemes.activations, x, dynamic))
    return layer


def _inputs(module: nn.Module, scheme: ActivationScheme, x: Tensor, dynamic: bool) -> ActivationQuantizer:
    """A quantizer of a layer's inputs, with the range of these where it does not find its own."""
    quantizer = ActivationQuantizer(scheme, dynamic=dynamic)
    quantizer.add_buffers(module)
    if not dynamic:
        observation = Observation.unseen(scheme, x.device)
        observation.observe(x, scheme)
        quantizer.set_grid(module, *observation.solved(scheme))
    return quantizer


def _arguments(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return (x, x, x) if isinstance(module, nn.MultiheadAttention) else (x,)


def _own_width(module: nn.Module) -> int:
    weight: Any = module._parameters[weight_names(module)[0]]
    return int(torch.finfo(weight.dtype).bits)


def _scales(rows: Tensor, scheme: WeightScheme | None) -> int:
    """How many scales a weight has."""
    if scheme is None:
        return 0
    view, shared = view_of(rows, scheme)
    count = view.numel()
    for dimension in shared:
        count //= max(view.shape[dimension], 1)
    return int(count)
