"""The grids that the weights of layers are on, or will be on by another modifier of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.model.graph.fusion import batch_norms_after
from paredown.framework.model.links import links_of
from paredown.framework.model.targets import named_modules
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, weight_quantizer
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.quantization_modifier import QuantizationModifier

__all__ = ["GridBeside", "folded_after", "grids_beside"]

#: twice this times 255 is less than 2^15; for no more values than these
SAFE_CODE, SAFE_CLUSTERS = 63, 16


@dataclass(frozen=True)
class GridBeside:
    """The grid of a layer's weights.

    Attributes:
        scheme: its numbers.
        owner: the name of the modifier that puts the weights on it.
        inputs: whether the layers' inputs are quantized too.
        moving: whether an optimizer moves its scales.
    """

    scheme: WeightScheme
    owner: str
    inputs: bool = False
    moving: bool = False

    def largest(self, clusters: int) -> int | None:
        """The largest code that few values of a weight are; None: the grid's.

        Codes up to 63 leave pairs of products with 8-bit inputs within the 16 bits in which processors without VNNI add
        them up, so that the file stays signed, which is faster there. Among 16 values it costs 1% of the squared error.
        """
        scheme = self.scheme
        plain = scheme.format == "int" and scheme.width == 8 and scheme.scales == "float"
        return SAFE_CODE if plain and self.inputs and clusters <= SAFE_CLUSTERS else None

    @property
    def refusal(self) -> str | None:
        """Why weights on it cannot share codes, or None."""
        if self.moving:
            return f"{self.owner} trains its scales, and shared codes need scales that stay"
        if not self.scheme.symmetric:
            return f"{self.owner} gives its codes zero points, which differ from scale to scale: use symmetric: true"
        return None


def grids_beside(training: Training, modules: Mapping[str, nn.Module]) -> dict[str, GridBeside]:
    """By layer the grid of its weights, of those that have one or get one in this recipe."""
    found: dict[str, GridBeside] = {}
    for other, view in (*training.earlier, *training.later):
        if isinstance(other, QuantizationModifier):
            for name, (_, schemes) in other.fixed_layers(view).items():
                assert schemes.weights is not None
                inputs = schemes.activations is not None
                found[name] = GridBeside(schemes.weights, other.name, inputs, other.trains_scales)
    for name, module in modules.items():
        link = weight_quantizer(module)
        if link is not None and (name not in found or found[name].scheme.bits == "auto"):
            inputs = any(isinstance(each, ActivationQuantizer) for each in links_of(module))
            found[name] = GridBeside(link.scheme, link.owner, inputs)
    return {name: found[name] for name in modules if name in found}


def folded_after(training: Training) -> dict[str, nn.Module]:
    """By layer the batch-norm that is folded into it when it is exported; none without example inputs or data."""
    try:
        graph = training.data.graph()
    except TargetError:
        return {}
    modules = named_modules(training.model)
    return {} if graph is None else {name: modules[norm] for name, norm in batch_norms_after(graph).items()}
