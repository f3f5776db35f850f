"""The grids that the weights of layers are on, or will be on by another modifier of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.model.graph.fusion import batch_norms_after
from paredown.framework.model.targets import named_modules
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.quantization_modifier import QuantizationModifier

__all__ = ["GridBeside", "folded_after", "grids_beside"]


@dataclass(frozen=True)
class GridBeside:
    """The grid of a layer's weights.

    Attributes:
        scheme: its numbers.
        owner: the name of the modifier that puts the weights on it.
        moving: whether an optimizer moves its scales.
    """

    scheme: WeightScheme
    owner: str
    moving: bool = False

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
                found[name] = GridBeside(schemes.weights, other.name, other.trains_scales)
    for name, module in modules.items():
        link = weight_quantizer(module)
        if link is not None and (name not in found or found[name].scheme.bits == "auto"):
            found[name] = GridBeside(link.scheme, link.owner)
    return {name: found[name] for name in modules if name in found}


def folded_after(training: Training) -> dict[str, nn.Module]:
    """By layer the batch-norm that is folded into it when it is exported; none without example inputs or data."""
    try:
        graph = training.data.graph()
    except TargetError:
        return {}
    modules = named_modules(training.model)
    return {} if graph is None else {name: modules[norm] for name, norm in batch_norms_after(graph).items()}
