"""A copy of a model in which each quantizer is written out in operators that an exporter knows.

Codes are stored as integers and dequantized in the graph; batch-norms are folded into quantized convolutions, exactly:
the factor f = gamma / sqrt(var + eps) of an output channel goes into its scale, S |f|, and its sign into the codes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from paredown.framework.engine.plain import eval_copy
from paredown.framework.errors import ExportError, TargetError
from paredown.framework.model.forward import Forward
from paredown.framework.model.graph.fusion import batch_norms_after, export_graph
from paredown.framework.model.kinds import CONVOLUTIONS, Conv1D
from paredown.framework.model.links import Link, add_link, base_class, links_of, remove_links
from paredown.framework.model.weights import ROWS_FIRST
from paredown.integrations.export.integer_bias import as_int8, integer_bias
from paredown.integrations.export.spelled import (
    BiasApart,
    Dequantizing,
    DynamicAttention,
    DynamicLinear,
    DynamicRecurrent,
    Rows,
    Spelled,
    SpelledResults,
    TensorsOnly,
)
from paredown.integrations.export.spelling import Spelling
from paredown.integrations.export.stored_weights import StoredWeight, fold_batch_norm, store_weight
from paredown.integrations.sparse_layers import restore
from paredown.modifiers.quantization.layers.attention import AttentionOutputs
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, WeightQuantizer, weight_quantizer
from paredown.modifiers.quantization.layers.recurrent import HiddenStates
from paredown.modifiers.quantization.layers.result_quantizers import ResultQuantizers

__all__ = ["ExportCopy", "export_copy"]

Stored = dict[str, StoredWeight]


@dataclass(frozen=True)
class ExportCopy:
    """A model written out.

    Attributes:
        model: returns a tuple of tensors.
        folded: by the name of a layer the batch-norm that was folded into it.
    """

    model: nn.Module
    folded: dict[str, str]


def export_copy(model: nn.Module, example_inputs: Any, forward: Forward | None, spelling: Spelling) -> ExportCopy:
    """A copy in eval mode, with quantizers written out, that returns a tuple of tensors.

    The model itself stays as it is. Where its graph cannot be traced, batch-norms stay layers of their own. Models in
    half precision are computed in float32: what they are quantized with is. Weights in CSR are dense again.

    Raises:
        ExportError: a layer is quantized in a way that has no spelling; the message names it.
    """
    written = eval_copy(model)
    restore(written)
    for module in list(written.modules()):
        _as_linear_(module)
    norms = _norms(written, example_inputs, forward)
    _widen_(written)
    modules = dict(written.named_modules())
    folded = {}
    for name, module in modules.items():
        try:
            if _write_out(module, spelling, modules, norms.get(name)):
                folded[name] = norms[name]
        except (ExportError, RuntimeError, ValueError) as error:
            raise ExportError(f"{name or 'the model'} ({type(module).__name__}) cannot be exported: {error}") from error
    add_link(written, TensorsOnly())
    return ExportCopy(written, folded)


def _widen_(model: nn.Module) -> None:
    """To float32 from half precision, in place."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16):
                    tensor.data = tensor.data.float()
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()


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


def _write_out(module: nn.Module, spelling: Spelling, modules: dict[str, nn.Module], norm: str | None) -> bool:
    """Put links that spell in the places of the quantizers; whether the batch-norm was folded."""
    links = [link for link in links_of(module) if _acts(link, module)]
    weights = next((link for link in links if isinstance(link, WeightQuantizer)), None)
    inputs = next((link for link in links if isinstance(link, ActivationQuantizer) and link.place == "input"), None)
    stored = {} if weights is None else _stored(module, weights, inputs)
    folded = norm is not None and weights is not None and not _quantizes_output(links)
    folded = folded and norm is not None and _fold(module, modules, norm, stored)
    remove_links(module, links_of(module))
    for link in links:  # outermost, so that a bias that is added apart comes before it
        if isinstance(link, ActivationQuantizer) and link.place == "output":
            add_link(module, Spelled(module, spelling, link))
        elif isinstance(link, ResultQuantizers):
            add_link(module, SpelledResults(module, spelling, link))
    _write_layer(module, spelling, stored, inputs, links)
    return folded


def _write_layer(
    module: nn.Module, spelling: Spelling, stored: Stored, inputs: ActivationQuantizer | None, links: list[Link]
) -> None:
    kinds = {type(link) for link in links}
    dynamic = inputs is not None and inputs.dynamic
    if inputs is not None and dynamic and _is_plain_linear(module) and "weight" in stored:
        add_link(module, DynamicLinear(module, spelling, stored["weight"], inputs.scheme))
    elif inputs is not None and isinstance(module, nn.MultiheadAttention) and AttentionOutputs in kinds and stored:
        output = _child_weight(module.out_proj, True)
        add_link(module, DynamicAttention(module, spelling, stored, output, inputs.scheme))
    elif isinstance(module, nn.LSTM) and HiddenStates in kinds and stored and spelling.writes_lstm():
        add_link(module, DynamicRecurrent(module, spelling, stored))
    else:
        _add(module, spelling, stored, inputs)


def _acts(link: Link, module: nn.Module) -> bool:
    if isinstance(link, ActivationQuantizer):
        seen = link.dynamic or bool(getattr(module, f"{link.place}_scale") > 0)
        return seen and link.in_eval and not link.passing
    return not isinstance(link, WeightQuantizer) or link.in_eval


def _stored(module: nn.Module, link: WeightQuantizer, inputs: ActivationQuantizer | None) -> Stored:
    by_rows = isinstance(module, (nn.Linear, nn.MultiheadAttention))
    turned = by_rows and (inputs is None or inputs.dynamic) and (inputs is not None or isinstance(module, nn.Linear))
    return {name: store_weight(module, link, name, turned) for name in link.names}


def _quantizes_output(links: list[Link]) -> bool:
    return any(isinstance(link, ActivationQuantizer) and link.place == "output" for link in links)


def _fold(module: nn.Module, modules: dict[str, nn.Module], norm: str, stored: Stored) -> bool:
    """Fold a batch-norm; an identity, with the links of the batch-norm, takes its place."""
    layer: Any = modules[norm]
    folded = fold_batch_norm(module, layer, stored["weight"])
    if folded is None:
        return False
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
    return True


def _child_weight(child: nn.Module, turned: bool) -> StoredWeight | None:
    """Of an attention's ``out_proj``, whose forward the attention never calls; its quantizer is taken off."""
    quantizer = weight_quantizer(child)
    if quantizer is None or not quantizer.in_eval:
        return None
    stored = store_weight(child, quantizer, "weight", turned)
    remove_links(child, [quantizer])
    return stored


def _is_plain_linear(module: nn.Module) -> bool:
    return base_class(module).forward is nn.Linear.forward


def _add(module: nn.Module, spelling: Spelling, stored: Stored, inputs: ActivationQuantizer | None) -> None:
    if inputs is not None:
        add_link(module, Spelled(module, spelling, inputs))
    if isinstance(module, nn.Embedding) and base_class(module).forward is nn.Embedding.forward and stored:
        if stored["weight"].is_float and spelling.writes_integer_bias():
            raise ExportError("onnxruntime looks up no rows of fp8: use integers for embeddings")
        add_link(module, Rows(module, stored["weight"]))
        return
    products, attention = isinstance(module, (nn.Linear, *CONVOLUTIONS)), isinstance(module, nn.MultiheadAttention)
    bias = None
    if inputs is not None and not inputs.dynamic and (products or attention):
        stored = as_int8(stored)
        if spelling.rounds_bias() and products:
            stored, bias = integer_bias(module, stored, inputs)
            bias = bias if spelling.writes_integer_bias() else None
    integer = inputs is not None and (products or attention)
    own = [(module, name, _read(module, spelling, weight, integer)) for name, weight in stored.items()]
    output = _child_weight(module.out_proj, False) if isinstance(module, nn.MultiheadAttention) else None
    if output is not None:
        own.append((module.out_proj, "weight", _read(module, spelling, output, False)))  # type: ignore[arg-type]
    if bias is not None:
        own.append((module, "bias", bias))
    if own:
        add_link(module, Dequantizing(own, spelling))
    if inputs is not None and bias is None and spelling.writes_integer_bias() and products:
        add_link(module, BiasApart())


def _read(module: nn.Module, spelling: Spelling, weight: StoredWeight, integer: bool) -> StoredWeight:
    """A weight that meets quantized inputs, or is unpacked once, when the file is opened."""
    unpacked = spelling.unpacks(weight, isinstance(module, nn.Linear))
    return weight if integer or not unpacked else dataclasses.replace(weight, constant=True)
