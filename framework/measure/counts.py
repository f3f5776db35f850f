"""Counts of a model, layer by layer: parameters, non-zeros, bits, multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.distributed.shards import own_part, sum_of_parts
from paredown.framework.measure.products import count_products
from paredown.framework.measure.size import stored_codes
from paredown.framework.model.forward import Forward
from paredown.framework.model.links import base_class
from paredown.framework.model.targets import named_modules, unwrap

__all__ = ["LayerMeasures", "ModelMeasures", "measure_model"]

#: a matrix of so many elements or more whose values are that few is counted as indices into them
LEAST, FEW = 1024, 256
#: the same of elements of a byte, which are of few values by themselves
FEW_OF_A_BYTE = 32
#: elements that are looked at first
SAMPLE = 4096


@dataclass(frozen=True)
class LayerMeasures:
    """One module that owns parameters. A parameter that several modules share counts at the first.

    ``bits`` is what its parameters take when each is stored at its own width, zeros included, and matrices of at most
    256 different values as indices into these; ``macs`` the
    multiply-accumulates with weights in one forward of the example inputs, without those of modules inside that have
    parameters themselves; None where no inputs were given.
    """

    name: str
    kind: str
    parameters: int
    nonzeros: int
    bits: int
    macs: int | None = None

    @property
    def sparsity(self) -> float:
        """Share of zeros, 0 to 1."""
        return 1 - self.nonzeros / self.parameters if self.parameters else 0.0


@dataclass(frozen=True)
class ModelMeasures:
    """A whole model. ``macs`` counts all products, attention's of activations too; ``weight_macs`` those with weights,
    in layers or not."""

    layers: tuple[LayerMeasures, ...]
    macs: int | None = None
    weight_macs: int | None = None

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        return sum(layer.nonzeros for layer in self.layers)


def measure_model(model: nn.Module, example_inputs: Any = None, forward: Forward | None = None) -> ModelMeasures:
    """Measure a model without changing it.

    Args:
        model: any module, also wrapped or compiled (what is inside is measured).
        example_inputs: a tensor, a tuple of the model's positional arguments or a dict of named ones, on its device;
            needed for ``macs``.
        forward: called as ``forward(model, example_inputs)`` where the above does not fit.
    """
    inner = unwrap(model)
    counted = None if example_inputs is None else count_products(inner, example_inputs, forward)
    seen: set[int] = set()
    layers = [
        _measure_layer(name, module, seen, None if counted is None else counted.of_layer.get(name, 0))
        for name, module in named_modules(inner).items()
        if any(True for _ in module.parameters(recurse=False))
    ]
    if counted is None:
        return ModelMeasures(tuple(layers))
    return ModelMeasures(tuple(layers), counted.total, counted.with_weights)


def _width(values: Tensor, width: int) -> int:
    """The bits of an index into the different values of a matrix where these are few, else the given width, as also
    where that is less than a byte."""
    few = FEW if width > 8 else FEW_OF_A_BYTE
    if width < 8 or values.dim() < 2 or values.numel() < LEAST or len(torch.unique(values.flatten()[:SAMPLE])) > few:
        return width
    different = len(torch.unique(values))
    return width if different > few else min(width, max(different - 1, 1).bit_length())


def _measure_layer(name: str, module: nn.Module, seen: set[int], macs: int | None) -> LayerMeasures:
    codes = stored_codes(module)
    count = nonzeros = bits = 0
    for key, parameter in module.named_parameters(recurse=False):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        stored, width = codes.get(key, (None, parameter.element_size() * 8))
        count += parameter.numel()
        nonzeros += int(sum_of_parts(own_part(parameter).count_nonzero(), parameter))
        kept = own_part(parameter).detach() if stored is None else stored
        bits += (parameter.numel() if stored is None else stored.numel()) * _width(kept, width)
    return LayerMeasures(name, base_class(module).__name__, count, nonzeros, bits, macs)
