"""The links that stand in an exported copy in the places of quantizers, and write what these do in other operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import ExportError
from paredown.framework.model.graph.trace import tensors_of
from paredown.framework.model.links import Link
from paredown.framework.model.operators import ReplacedFunction, TreatedResults
from paredown.integrations.export.spelling import Spelling
from paredown.integrations.export.stored_weights import StoredWeight
from paredown.modifiers.quantization.layers.attention import Projections, attention_in
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer
from paredown.modifiers.quantization.layers.recurrent import directions_of
from paredown.modifiers.quantization.layers.result_quantizers import ResultQuantizers
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = [
    "BiasApart",
    "Dequantizing",
    "DynamicAttention",
    "DynamicLinear",
    "DynamicRecurrent",
    "Rows",
    "Spelled",
    "SpelledResults",
    "TensorsOnly",
]

Call = Callable[..., Any]


class Written(Link):
    """Part of the exported copy."""

    permanent = True


class TensorsOnly(Link):
    """Returns the tensors of a model's output as a flat tuple."""

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        return tensors_of(call(module, *args, **kwargs))


class Spelled(Written):
    """An activation's quantizer in the exporter's operators."""

    def __init__(self, module: nn.Module, spelling: Spelling, link: ActivationQuantizer) -> None:
        self.spelling, self.scheme, self.place, self.dynamic = spelling, link.scheme, link.place, link.dynamic
        if not self.dynamic:
            if self.scheme.format == "fp4_e2m1":
                raise ExportError("activations of the format fp4_e2m1 have no operator")
            scale, zero_point = (module.get_buffer(f"{self.place}_{part}") for part in ("scale", "zero_point"))
            zero_point = spelling.zero_point(zero_point, self.scheme)
            module._buffers[f"{self.place}_zero_point"] = zero_point
            self.numbers = (float(scale), int(zero_point)) if spelling.writes_numbers() else None

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if self.place == "output":
            output = call(module, *args, **kwargs)
            return self.treated(output, module) if isinstance(output, Tensor) else output
        count, names = (3, ("query", "key", "value")) if isinstance(module, nn.MultiheadAttention) else (1, ("input",))
        known: dict[int, Tensor] = {}
        treated = [self._once(value, module, known) for value in args[:count]]
        named = {name: self._once(kwargs[name], module, known) for name in names if name in kwargs}
        return call(module, *treated, *args[count:], **{**kwargs, **named})

    def _once(self, value: Any, module: nn.Module, known: dict[int, Tensor]) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if id(value) not in known:
            known[id(value)] = self.treated(value, module)
        return known[id(value)]

    def treated(self, x: Tensor, module: nn.Module) -> Tensor:
        """A tensor at this place, quantized and dequantized."""
        if self.dynamic:
            return self.spelling.dynamic(x, self.scheme)
        if self.numbers is not None:
            return self.spelling.fixed(x, *self.numbers, self.scheme)
        scale, zero_point = (getattr(module, f"{self.place}_{part}") for part in ("scale", "zero_point"))
        return self.spelling.fixed(x, scale, zero_point, self.scheme)


class SpelledResults(Written):
    """The quantizers of results inside of a forward in the exporter's operators."""

    def __init__(self, module: nn.Module, spelling: Spelling, link: ResultQuantizers) -> None:
        self.members = {number: Spelled(module, spelling, each) for number, each in link.members.items()}

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        with TreatedResults({number: partial(_treated, each, module) for number, each in self.members.items()}):
            return call(module, *args, **kwargs)


def _treated(link: Spelled, module: nn.Module, x: Any) -> Any:
    return link.treated(x, module)


class Dequantizing(Written):
    """Puts dequantized codes into the places of parameters for the time of the forward.

    Args:
        weights: with the module that owns each, and its name.
    """

    def __init__(self, weights: Sequence[tuple[nn.Module, str, StoredWeight]], spelling: Spelling) -> None:
        self.spelling = spelling
        self.weights = [(owner, name, spelling.stored(weight).moved_to(owner, name)) for owner, name, weight in weights]
        for owner, name, _ in self.weights:
            empty_(owner, name)
        self.empty = [owner._parameters[name] for owner, name, _ in self.weights]

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        try:
            for owner, name, weight in self.weights:
                owner._parameters[name] = weight.spelled(owner, name, self.spelling.dequantized)  # type: ignore[assignment]
            _refresh_(module)
            return call(module, *args, **kwargs)
        finally:
            for (owner, name, _), empty in zip(self.weights, self.empty, strict=True):
                owner._parameters[name] = empty
            _refresh_(module)

    def unpack_(self) -> None:
        """Make the values parameters again, in the place of the codes."""
        with torch.no_grad():
            for owner, name, weight in self.weights:
                values = weight.spelled(owner, name, self.spelling.dequantized)
                owner._parameters[name] = nn.Parameter(values.contiguous(), requires_grad=False)
                weight.removed_from(owner, name)
                _refresh_(owner)


def empty_(module: nn.Module, name: str) -> None:
    """Leave a parameter of the same shape that takes no memory: models ask for the shape, the type and the device of a
    layer's weight. Its values are NaN, so that whoever reads them is noticed."""
    weight: Any = module._parameters[name]
    nothing = torch.full((), torch.nan, dtype=weight.dtype, device=weight.device)
    module._parameters[name] = nn.Parameter(nothing.expand(weight.shape), requires_grad=False)


def _refresh_(module: nn.Module) -> None:
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()  # it keeps its weights in a list of its own


class BiasApart(Written):
    """Adds a layer's bias afterwards: an engine would round it to the scale of the products, which does not fit."""

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        bias = module._parameters.get("bias")
        if bias is None:
            return call(module, *args, **kwargs)
        try:
            module._parameters["bias"] = None
            behind = 0 if isinstance(module, nn.Linear) else module.weight.dim() - 2  # type: ignore[operator]
            return call(module, *args, **kwargs) + bias.reshape(-1, *[1] * behind)
        finally:
            module._parameters["bias"] = bias


class Rows(Written):
    """An embedding that looks up codes and dequantizes the rows it found."""

    def __init__(self, module: nn.Module, weight: StoredWeight) -> None:
        self.weight = weight.moved_to(module, "weight")
        empty_(module, "weight")

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        indices: Tensor = args[0] if args else kwargs["input"]
        return self.weight.rows(module, "weight", indices)


class DynamicLinear(Written):
    """A linear layer whose inputs are quantized at run time."""

    def __init__(self, module: nn.Module, spelling: Spelling, weight: StoredWeight, scheme: ActivationScheme) -> None:
        self.spelling, self.scheme = spelling, scheme
        self.weight = spelling.stored(weight).moved_to(module, "weight")
        empty_(module, "weight")

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        x: Tensor = args[0] if args else kwargs["input"]
        weight, bias = self.weight.read_from(module, "weight"), module._parameters.get("bias")
        return dynamic_product(self.spelling, x, weight, bias, self.scheme)


def dynamic_product(
    spelling: Spelling, x: Tensor, weight: StoredWeight, bias: Tensor | None, scheme: ActivationScheme
) -> Tensor:
    """x W^T + b with inputs that are quantized at run time: in one piece where the spelling knows it."""
    plain = scheme.bits == 8 and scheme.format == "int" and not scheme.symmetric and scheme.granularity == "tensor"
    whole = None
    if plain and weight.turned and not weight.group and not weight.is_float:
        whole = spelling.dynamic_linear(x, weight, bias)
    if whole is not None:
        return whole
    return nn.functional.linear(spelling.dynamic(x, scheme), weight.values(spelling.dequantized), bias)


class DynamicAttention(Written):
    """A MultiheadAttention whose inputs, and what goes into its output's projection, are quantized at run time."""

    def __init__(
        self, module: nn.MultiheadAttention, spelling: Spelling, stored: Mapping[str, StoredWeight],
        output: StoredWeight | None, scheme: ActivationScheme,
    ) -> None:  # fmt: skip
        self.spelling, self.scheme = spelling, scheme
        self.weights = {name: spelling.stored(weight).moved_to(module, name) for name, weight in stored.items()}
        self.output = None if output is None else spelling.stored(output).moved_to(module.out_proj, "weight")
        for name in stored:
            empty_(module, name)
        if output is not None:
            empty_(module.out_proj, "weight")

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        with attention_in(_WrittenProjections(self, module)):
            return call(module, *args, **kwargs)


class _WrittenProjections(Projections):
    def __init__(self, link: DynamicAttention, module: Any) -> None:
        self.link, self.module = link, module

    def inputs(self, query: Tensor, key: Tensor, value: Tensor, weights: Any) -> tuple[Tensor, Tensor, Tensor]:
        own = {name: weight.read_from(self.module, name) for name, weight in self.link.weights.items()}
        bias, size = weights["in_proj_bias"], query.shape[-1]
        together = own.get("in_proj_weight")
        if together is not None and query is key and key is value:
            q, k, v = torch.split(self._product(query, together, bias), size, -1)
            return q, k, v
        parts = [own[f"{name}_proj_weight"] for name in "qkv"] if together is None else _thirds(together, size)
        biases = (None, None, None) if bias is None else bias.split(size)
        q, k, v = (self._product(x, *each) for x, *each in zip((query, key, value), parts, biases, strict=True))
        return q, k, v

    def output(self, x: Tensor, weights: Any) -> Tensor:
        if self.link.output is None:
            return super().output(x, weights)
        out = self.module.out_proj
        return self._product(x, self.link.output.read_from(out, "weight"), out._parameters.get("bias"))

    def _product(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        return dynamic_product(self.link.spelling, x, weight, bias, self.link.scheme)


def _thirds(weight: StoredWeight, size: int) -> list[StoredWeight]:
    return [weight.outputs(start, start + size) for start in range(0, 3 * size, size)]


class DynamicRecurrent(Written):
    """An LSTM whose inputs and hidden states are quantized at run time.

    Raises:
        ExportError: its weights are quantized otherwise than the spelling knows.
    """

    def __init__(self, module: nn.LSTM, spelling: Spelling, stored: Mapping[str, StoredWeight]) -> None:
        self.spelling = spelling
        self.ways = directions_of(module.bidirectional)
        self.layers = [self._parts(module, stored, layer) for layer in range(module.num_layers)]
        for name in stored:
            empty_(module, name)
        module._init_flat_weights()

    def _parts(self, module: nn.LSTM, stored: Mapping[str, StoredWeight], layer: int) -> dict[str, str]:
        """The buffers of one layer by what they are."""
        ends = [f"{part}_l{layer}{'_reverse' * way}" for way in range(self.ways) for part in ("ih", "hh")]
        weights, biases = [stored[f"weight_{end}"] for end in ends], [module._parameters.get(f"bias_{e}") for e in ends]
        parts = self.spelling.lstm_parts(weights, biases, self.ways)
        if parts is None:
            raise ExportError("an integer LSTM takes symmetric weights, with a scale for each channel or the tensor")
        for name, tensor in parts.items():
            module.register_buffer(f"l{layer}_{name}", tensor)
        return {name: f"l{layer}_{name}" for name in parts}

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        with ReplacedFunction("lstm", partial(self._lstm, module)):
            return call(module, *args, **kwargs)

    def _lstm(self, module: nn.Module, x: Tensor, states: Any, weights: Any, *settings: Any) -> Any:
        if isinstance(states, Tensor):
            raise ExportError("packed sequences are not exported: give a tensor")
        batch_first = settings[-1]
        x = x.transpose(0, 1) if batch_first else x
        last = []
        for layer, names in enumerate(self.layers):
            own = [state[layer * self.ways : (layer + 1) * self.ways] for state in states]
            parts = {name: module.get_buffer(buffer) for name, buffer in names.items()}
            x, *final = self.spelling.dynamic_lstm(x, parts, own)
            last.append(final)
        hidden, cell = (torch.cat([final[place] for final in last]) for place in range(2))
        return (x.transpose(0, 1) if batch_first else x), hidden, cell
