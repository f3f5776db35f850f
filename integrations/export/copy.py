"""A copy of a model in which each quantizer is written out in operators that an exporter knows.

Codes are stored as integers and dequantized in the graph; batch-norms are folded into quantized convolutions, exactly:
the factor f = gamma / sqrt(var + eps) of an output channel goes into its scale, S |f|, and its sign into the codes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from paredown.framework.errors import ExportError, TargetError
from paredown.framework.model.forward import Forward
from paredown.framework.model.graph.fusion import batch_norms_after, export_graph, tensors_of
from paredown.framework.model.kinds import CONVOLUTIONS, Conv1D
from paredown.framework.model.links import Link, add_link, base_class, links_of, remove_links
from paredown.framework.model.targets import unwrap
from paredown.framework.model.weights import ROWS_FIRST
from paredown.integrations.export.stored_weights import StoredWeight, fold_batch_norm, store_weight
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, WeightQuantizer, weight_quantizer
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["Spelling", "dense_copy", "export_copy"]

Call = Callable[..., Any]
BIAS_LIMIT = 2**31 - 1


class Spelling(Protocol):
    """How an exporter writes quantization in operators of a traced forward."""

    def zero_point(self, zero_point: Tensor, scheme: ActivationScheme) -> Tensor:
        """A zero point (int32) in the type and with the offset of the codes that the exporter uses."""

    def fixed(self, x: Tensor, scale: Tensor, zero_point: Tensor, scheme: ActivationScheme) -> Tensor:
        """Quantize and dequantize with a grid that is known; the zero point is that of `zero_point`."""

    def dynamic(self, x: Tensor, scheme: ActivationScheme) -> Tensor:
        """Quantize and dequantize with the grid of the values themselves."""

    def dequantized(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group: int, bits: int
    ) -> Tensor:
        """Values of codes, as ONNX's DequantizeLinear has it: a scale for the tensor, an axis, or groups of it."""

    def dynamic_linear(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor | None:
        """A linear layer of dynamically quantized inputs in one piece; None: write it in two."""

    def writes_integer_bias(self) -> bool:
        """Whether a bias is stored as int32 at the scale of the products."""


def dense_copy(model: nn.Module) -> nn.Module:
    """A copy without quantizers, in eval mode, that returns a tuple of tensors."""
    plain = _eval_copy(model)
    for module in list(plain.modules()):
        remove_links(module, links_of(module))
    add_link(plain, _TensorsOnly())
    return plain


def export_copy(model: nn.Module, example_inputs: Any, forward: Forward | None, spelling: Spelling) -> nn.Module:
    """A copy in eval mode, with quantizers written out, that returns a tuple of tensors.

    The model itself stays as it is. Where its graph cannot be traced, batch-norms stay layers of their own.

    Raises:
        ExportError: a layer is quantized in a way that has no spelling; the message names it.
    """
    written = _eval_copy(model)
    for module in list(written.modules()):
        _as_linear_(module)
    norms = _norms(written, example_inputs, forward)
    modules = dict(written.named_modules())
    for name, module in modules.items():
        try:
            _write_out(module, spelling, modules, norms.get(name))
        except (ExportError, RuntimeError, ValueError) as error:
            raise ExportError(f"{name or 'the model'} ({type(module).__name__}) cannot be exported: {error}") from error
    add_link(written, _TensorsOnly())
    return written


def _eval_copy(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        copied: nn.Module = copy.deepcopy(unwrap(model)).eval()
    return copied.requires_grad_(False)


def _as_linear_(module: nn.Module) -> None:
    """Make a quantized Conv1D of transformers the linear layer that it is, whose rows are the same."""
    link, links = weight_quantizer(module), links_of(module)
    if link is None or not isinstance(module, Conv1D) or not _computes_conv1d(module):
        return
    layer: Any = module
    remove_links(layer, links)
    layer.__class__ = nn.Linear
    rows = link.layout.rows(layer.weight).contiguous()
    layer._parameters["weight"] = nn.Parameter(rows, requires_grad=False)
    link.layout = ROWS_FIRST
    layer.out_features, layer.in_features = rows.shape
    for each in links:
        add_link(layer, each)


def _computes_conv1d(module: nn.Module) -> bool:
    """Whether nobody gave the layer a forward of its own."""
    kind = base_class(module)
    origin: Any = next(each for each in kind.__mro__ if each.__name__ == Conv1D.__name__)
    return kind.forward is origin.forward and "forward" not in vars(module)


def _norms(model: nn.Module, example_inputs: Any, forward: Forward | None) -> dict[str, str]:
    if not any(isinstance(link, WeightQuantizer) for module in model.modules() for link in links_of(module)):
        return {}
    try:
        return batch_norms_after(export_graph(model, example_inputs, forward))
    except TargetError:
        return {}


def _write_out(module: nn.Module, spelling: Spelling, modules: dict[str, nn.Module], norm: str | None) -> None:
    """Put links that spell in the places of the quantizers."""
    links = [link for link in links_of(module) if _acts(link, module)]
    weights = next((link for link in links if isinstance(link, WeightQuantizer)), None)
    inputs = next((link for link in links if isinstance(link, ActivationQuantizer) and link.place == "input"), None)
    stored = {} if weights is None else _stored(module, weights, inputs)
    if norm is not None and weights is not None and not _quantizes_output(links):
        _fold(module, modules, norm, stored)
    child = _attention_child(module)
    remove_links(module, links_of(module))
    for link in links:  # outermost, so that a bias that is added apart comes before it
        if isinstance(link, ActivationQuantizer) and link.place == "output":
            add_link(module, _Spelled(module, spelling, link))
    if _is_plain_linear(module) and inputs is not None and inputs.dynamic and "weight" in stored:
        add_link(module, _DynamicLinear(module, spelling, stored["weight"], inputs.scheme))
    else:
        _add(module, spelling, stored, inputs, child)


def _acts(link: Link, module: nn.Module) -> bool:
    if isinstance(link, ActivationQuantizer):
        seen = link.dynamic or bool(getattr(module, f"{link.place}_scale") > 0)
        return seen and link.in_eval and not link.passing
    return not isinstance(link, WeightQuantizer) or link.in_eval


def _stored(module: nn.Module, link: WeightQuantizer, inputs: ActivationQuantizer | None) -> dict[str, StoredWeight]:
    turned = isinstance(module, nn.Linear) and (inputs is None or inputs.dynamic)
    return {name: store_weight(module, link, name, turned) for name in link.names}


def _quantizes_output(links: list[Link]) -> bool:
    return any(isinstance(link, ActivationQuantizer) and link.place == "output" for link in links)


def _fold(module: nn.Module, modules: dict[str, nn.Module], norm: str, stored: dict[str, StoredWeight]) -> None:
    """Fold a batch-norm; an identity, with the links of the batch-norm, takes its place."""
    layer: Any = modules[norm]
    folded = fold_batch_norm(module, layer, stored["weight"])
    if folded is None:
        return
    stored["weight"], bias = folded
    module._parameters["bias"] = nn.Parameter(bias, requires_grad=False)
    links = links_of(layer)
    remove_links(layer, links)
    layer.__class__ = nn.Identity
    for key in ("weight", "bias"):
        layer._parameters.pop(key, None)
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        layer._buffers.pop(key, None)
    for link in links:
        add_link(layer, link)


def _attention_child(module: nn.Module) -> nn.Module | None:
    return module.out_proj if isinstance(module, nn.MultiheadAttention) else None


def _is_plain_linear(module: nn.Module) -> bool:
    return base_class(module).forward is nn.Linear.forward


def _add(
    module: nn.Module,
    spelling: Spelling,
    stored: dict[str, StoredWeight],
    inputs: ActivationQuantizer | None,
    child: nn.Module | None,
) -> None:
    if inputs is not None:
        add_link(module, _Spelled(module, spelling, inputs))
    if isinstance(module, nn.Embedding) and base_class(module).forward is nn.Embedding.forward and stored:
        if stored["weight"].is_float and spelling.writes_integer_bias():
            raise ExportError("onnxruntime looks up no rows of fp8: use integers for embeddings")
        add_link(module, _Rows(module, stored["weight"]))
        return
    own = [(module, name, weight) for name, weight in stored.items()]
    quantizer = None if child is None else weight_quantizer(child)
    if child is not None and quantizer is not None and quantizer.in_eval:
        own += [(child, name, store_weight(child, quantizer, name, False)) for name in quantizer.names]
        remove_links(child, [quantizer])
    bias = _integer_bias(module, stored, inputs) if spelling.writes_integer_bias() else None
    if bias is not None:
        own.append((module, "bias", bias))
    if own:
        add_link(module, _Dequantizing(own, spelling))
    apart = isinstance(module, (nn.Linear, *CONVOLUTIONS))
    if inputs is not None and bias is None and spelling.writes_integer_bias() and apart:
        add_link(module, _BiasApart())


def _integer_bias(
    module: nn.Module, stored: dict[str, StoredWeight], inputs: ActivationQuantizer | None
) -> StoredWeight | None:
    """The bias at the scale of input times weight, which an integer engine adds to its sums; None: as float."""
    bias = module._parameters.get("bias")
    weight = stored.get("weight")
    if bias is None or weight is None or weight.group or weight.is_float or inputs is None or inputs.dynamic:
        return None
    if inputs.scheme.format != "int" or inputs.scheme.bits < 8 or weight.bits < 8:  # too coarse, and no gain
        return None
    input_scale: Any = module._buffers["input_scale"]
    scale = (weight.scale * input_scale).expand(bias.shape).clone()
    codes = (bias.detach() / scale).round()
    if not (codes.abs() <= BIAS_LIMIT).all():
        return None
    return StoredWeight(codes.to(torch.int32), scale, None, 0, 0, tuple(bias.shape), 32)


class _TensorsOnly(Link):
    """Returns the tensors of a model's output as a flat tuple."""

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        return tensors_of(call(module, *args, **kwargs))


class _Spelled(Link):
    """An activation's quantizer in the exporter's operators."""

    permanent = True

    def __init__(self, module: nn.Module, spelling: Spelling, link: ActivationQuantizer) -> None:
        self.spelling, self.scheme, self.place, self.dynamic = spelling, link.scheme, link.place, link.dynamic
        if not self.dynamic:
            if self.scheme.format == "fp4_e2m1":
                raise ExportError("activations of the format fp4_e2m1 have no operator")
            zero_point: Any = module._buffers[f"{self.place}_zero_point"]
            module._buffers[f"{self.place}_zero_point"] = spelling.zero_point(zero_point, self.scheme)

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if self.place == "output":
            output = call(module, *args, **kwargs)
            return self._treated(output, module) if isinstance(output, Tensor) else output
        count, names = (3, ("query", "key", "value")) if isinstance(module, nn.MultiheadAttention) else (1, ("input",))
        known: dict[int, Tensor] = {}
        treated = [self._once(value, module, known) for value in args[:count]]
        named = {name: self._once(kwargs[name], module, known) for name in names if name in kwargs}
        return call(module, *treated, *args[count:], **{**kwargs, **named})

    def _once(self, value: Any, module: nn.Module, known: dict[int, Tensor]) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if id(value) not in known:
            known[id(value)] = self._treated(value, module)
        return known[id(value)]

    def _treated(self, x: Tensor, module: nn.Module) -> Tensor:
        if self.dynamic:
            return self.spelling.dynamic(x, self.scheme)
        scale, zero_point = (getattr(module, f"{self.place}_{part}") for part in ("scale", "zero_point"))
        return self.spelling.fixed(x, scale, zero_point, self.scheme)


class _Dequantizing(Link):
    """Puts dequantized codes into the places of parameters for the time of the forward."""

    permanent = True

    def __init__(self, weights: list[tuple[nn.Module, str, StoredWeight]], spelling: Spelling) -> None:
        self.spelling = spelling
        self.weights = [(owner, name, weight.moved_to(owner, name)) for owner, name, weight in weights]
        for owner, name, _ in self.weights:
            _empty_(owner, name)
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


def _empty_(module: nn.Module, name: str) -> None:
    """Leave a parameter of no elements: models ask for the type and the device of a layer's weight."""
    weight: Any = module._parameters[name]
    module._parameters[name] = nn.Parameter(weight.new_empty(0), requires_grad=False)


def _refresh_(module: nn.Module) -> None:
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()  # it keeps its weights in a list of its own


class _BiasApart(Link):
    """Adds a layer's bias afterwards: onnxruntime would round it to the scale of the products, which is coarse for
    narrow integers."""

    permanent = True

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


class _Rows(Link):
    """An embedding that looks up codes and dequantizes the rows it found."""

    permanent = True

    def __init__(self, module: nn.Module, weight: StoredWeight) -> None:
        self.weight = weight.moved_to(module, "weight")
        _empty_(module, "weight")

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        indices: Tensor = args[0] if args else kwargs["input"]
        return self.weight.rows(module, "weight", indices)


class _DynamicLinear(Link):
    """A linear layer whose inputs are quantized at run time."""

    permanent = True

    def __init__(self, module: nn.Module, spelling: Spelling, weight: StoredWeight, scheme: ActivationScheme) -> None:
        self.spelling, self.scheme = spelling, scheme
        self.weight = weight.moved_to(module, "weight")
        _empty_(module, "weight")

    def around(self, call: Call, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        x: Tensor = args[0] if args else kwargs["input"]
        bias: Any = module._parameters.get("bias")
        whole = None
        if self.scheme.bits == 8 and self.scheme.format == "int" and not self.scheme.symmetric and self._by_tensor():
            whole = self.spelling.dynamic_linear(x, self.weight.read_from(module, "weight"), bias)
        if whole is not None:
            return whole
        weight = self.weight.spelled(module, "weight", self.spelling.dequantized)
        return nn.functional.linear(self.spelling.dynamic(x, self.scheme), weight, bias)

    def _by_tensor(self) -> bool:
        weight = self.weight
        return self.scheme.granularity == "tensor" and not weight.group and not weight.is_float and weight.bits == 8
