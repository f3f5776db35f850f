"""The tensors of a GGUF file: the weights of a model by their names there, quantized as its quantizers say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from paredown.framework.errors import ExportError
from paredown.framework.model.links import Link, base_class, links_of
from paredown.integrations.export.calling import require
from paredown.integrations.export.gguf_blocks import Stored, blocks_of, floats_of, reason_not_to_store
from paredown.integrations.export.gguf_models import architecture_of, permuted
from paredown.integrations.export.stored_weights import store_weight
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, WeightQuantizer

__all__ = ["quantized_layers", "tensors_of"]

INPUTS = (
    "its inputs are quantized, which the file cannot say: quantize weights alone (weight_quantization, gptq, awq), or "
    "name the engine in the recipe, run: {engine: gguf}"
)


def quantized_layers(model: nn.Module) -> dict[str, WeightQuantizer]:
    """The quantizers of weights by the name of their layer.

    Raises:
        ExportError: a layer is quantized in a way that the file does not hold; names it, and what to use instead.
    """
    found = {}
    for name, module in model.named_modules():
        acting = [link for link in links_of(module) if link.permanent and _acts(link)]
        for link in acting:
            reason = _reason(module, link)
            if reason is not None:
                raise ExportError(f"{name or 'the model'} ({base_class(module).__name__}) cannot be exported: {reason}")
            assert isinstance(link, WeightQuantizer)
            found[name] = link
    return found


def tensors_of(
    model: nn.Module, layers: Mapping[str, WeightQuantizer], floats: torch.dtype | None
) -> dict[str, tuple[str, Stored]]:
    """The tensors by their names in the file, each with that of its parameter.

    A head that is tied to the embedding, and is the same in the file, is left out, as llama.cpp has it.

    Args:
        layers: of `quantized_layers`.
        floats: of matrices that are not quantized; None: their own type.

    Raises:
        ExportError: a parameter has no place in the file; names it.
    """
    found = dict(_all_tensors(model, layers, floats))
    head, table = (found.get(name) for name in ("output.weight", "token_embd.weight"))
    if head is not None and table is not None and _is_same(model, head, table):
        del found["output.weight"]
    return found


def _acts(link: Link) -> bool:
    """Whether it does something to the model's values in eval mode."""
    if isinstance(link, ActivationQuantizer):
        return link.in_eval and not link.passing
    return not isinstance(link, WeightQuantizer) or link.in_eval


def _reason(module: nn.Module, link: Link) -> str | None:
    if isinstance(link, ActivationQuantizer):
        return INPUTS
    if not isinstance(link, WeightQuantizer) or not isinstance(module, (nn.Linear, nn.Embedding)):
        return f"a {type(link).__name__} around it has no place in the file"
    return reason_not_to_store(link.scheme, module.weight.shape[1])


def _all_tensors(
    model: nn.Module, layers: Mapping[str, WeightQuantizer], floats: torch.dtype | None
) -> Iterator[tuple[str, tuple[str, Stored]]]:
    names = _names(model)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer, _, own = name.rpartition(".")
        place = names.get_name(name, (".weight", ".bias"))
        if place is None:
            raise ExportError(f"{name} has no place in a GGUF file of this architecture")
        link = layers.get(layer)
        if link is None or own not in link.names:
            stored = floats_of(parameter, floats)
        else:
            stored = blocks_of(store_weight(model.get_submodule(layer), link, own, turned=False))
        yield place, (name, Stored(stored.kind, permuted(stored.data, name, model), stored.exact))


def _names(model: Any) -> Any:
    """The package's map from names of parameters to those in the file."""
    gguf = require("gguf", "gguf")
    architecture = next(each for each, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture_of(model))
    return gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)


def _is_same(model: nn.Module, one: tuple[str, Stored], other: tuple[str, Stored]) -> bool:
    """Whether two tensors are one parameter, stored alike."""
    tied = model.get_parameter(one[0]) is model.get_parameter(other[0])
    return tied and one[1].kind == other[1].kind and torch.equal(one[1].data, other[1].data)
