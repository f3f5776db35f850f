"""Which layers can be quantized, what of them, and why others cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from paredown.framework.model.kinds import CONVOLUTIONS, LINEAR, TRANSPOSED
from paredown.framework.model.links import base_class
from paredown.framework.model.read_layers import uses_of, weight_is_read
from paredown.framework.model.targets import named_modules
from paredown.framework.model.weights import COMPUTED
from paredown.framework.modifier.training import Training

__all__ = [
    "LAYERS",
    "ONLY_READ",
    "parent_attention",
    "reason_not_to_be_called",
    "reason_to_refuse",
    "takes_indices",
    "untreated",
    "weight_names",
]

#: of a layer that has no input to measure, and whose quantizers would never act
ONLY_READ = "its parent reads its weight and never calls its forward"
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
LAYERS = (*LINEAR, *CONVOLUTIONS, *TRANSPOSED, *EMBEDDINGS, nn.LSTM, nn.GRU, nn.RNN, nn.MultiheadAttention)


def weight_names(module: nn.Module) -> tuple[str, ...]:
    """The module's own parameters that are quantized, by name; empty where its weight is computed."""
    own = module._parameters
    if isinstance(module, nn.RNNBase):
        return tuple(name for name in own if name.startswith("weight_"))
    if isinstance(module, nn.MultiheadAttention):
        together = ("in_proj_weight",) if own.get("in_proj_weight") is not None else ()
        return together or tuple(f"{key}_proj_weight" for key in "qkv" if own.get(f"{key}_proj_weight") is not None)
    return ("weight",) if own.get("weight") is not None else ()


def takes_indices(module: nn.Module) -> bool:
    """Whether the input is no activation."""
    return isinstance(module, EMBEDDINGS)


def reason_to_refuse(module: nn.Module) -> str | None:
    """Why a layer's own weight cannot be quantized, or None."""
    if not weight_names(module):
        return COMPUTED
    if isinstance(module, EMBEDDINGS) and module.max_norm is not None:
        return "max_norm rewrites its weight in the forward"
    return None


def reason_not_to_be_called(training: Training, name: str) -> str | None:
    """Why quantizers of a layer would not act, or None. Where a parent's code reads the weight and calls the forward
    too, the example inputs or the data decide."""
    if not weight_is_read(training.model, name):
        return None
    seen = training.data.called()
    somewhere = any(use.called and not use.path for use in uses_of(training.model, name))
    return None if (somewhere if seen is None else name in seen) else ONLY_READ


def parent_attention(model: nn.Module, name: str) -> str | None:
    """The name of the MultiheadAttention whose forward reads the weight of the layer ``name``, if one does."""
    above, _, key = name.rpartition(".")
    attention = key == "out_proj" and isinstance(named_modules(model).get(above), nn.MultiheadAttention)
    return above if attention else None


def untreated(model: nn.Module, targets: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Modules that hold matrices but are of no kind that can be quantized: (name, class)."""
    for name, module in named_modules(model).items():
        matrices = [p for p in module._parameters.values() if p is not None and p.dim() > 1]
        if matrices and not isinstance(module, LAYERS) and name not in targets:
            yield name, base_class(module).__name__
