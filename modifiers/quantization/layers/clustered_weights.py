"""Weights that are to share values, in their layers: their scales where a quantizer has them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paredown.framework.model.links import Links, links_of, remove_links
from paredown.framework.model.weights import WeightLayout
from paredown.modifiers.quantization.layers.clustered import Clusters
from paredown.modifiers.quantization.layers.kinds import weight_names
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer
from paredown.modifiers.quantization.layers.shared_codes import SharedCodes, grid_scale, scale_of_each
from paredown.modifiers.quantization.numbers.scales import weight_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme

__all__ = ["WeightInLayer", "keep_scales"]


@dataclass(frozen=True)
class WeightInLayer:
    """A weight, and the layer that has it.

    Attributes:
        layer: the layer's name.
        module: the layer.
        key: the weight's own name there.
        weight: itself.
    """

    layer: str
    module: nn.Module
    key: str
    weight: nn.Parameter

    @property
    def name(self) -> str:
        """The parameter's name."""
        return f"{self.layer}.{self.key}" if self.layer else self.key

    @torch.no_grad()
    def scale(self, scheme: WeightScheme, largest: int | None, norm: nn.Module | None) -> Tensor:
        """The scale of each element on a grid: of a quantizer that is there already, else by the weight as it is.

        Args:
            scheme: of the grid.
            largest: the largest code that is used; the scales are as much larger. None: the grid's.
            norm: the batch-norm that is folded into the layer.

        Returns:
            Of the weight's shape, or 1 in some dimensions; signs as of `with_signs`.
        """
        layout, link = WeightLayout.of(self.module), weight_quantizer(self.module)
        if link is not None and link.scheme == scheme:
            kept = link.grid(self.module, self.key)[0]
        else:
            kept = weight_parameters(layout.rows(self.weight.detach()), scheme)[0]
        kept = kept if largest is None else kept * (scheme.half_range / largest)
        return self.with_signs(scale_of_each(kept, self.weight, layout, scheme), norm)

    @torch.no_grad()
    def with_signs(self, scale: Tensor, norm: nn.Module | None) -> Tensor:
        """A scale of each element, negative where folding the batch-norm turns the signs of a channel's codes: then the
        codes that are stored are one list for all channels."""
        factor = None if norm is None else norm._parameters.get("weight")
        if factor is None:
            return scale.abs()
        layout = WeightLayout.of(self.module)
        signs = torch.where(factor < 0, -1.0, 1.0).to(scale).reshape(-1, *[1] * (self.weight.dim() - 1))
        across = layout.rows(self.weight).shape if layout.groups > 1 else signs.shape
        return scale.abs() * layout.kept(signs.expand(across))


def keep_scales(links: Links, module: nn.Module, state: Clusters, scheme: WeightScheme) -> None:
    """Let whoever quantizes a layer's weights have the scales that their shared codes were found for."""
    layout = WeightLayout.of(module)
    own = {key: module.get_parameter(key) for key in weight_names(module)}
    scales = {
        key: grid_scale(state.scales[weight], weight, layout, scheme)
        for key, weight in own.items()
        if weight in state.scales
    }
    if scales:
        remove_links(module, [link for link in links_of(module) if isinstance(link, SharedCodes)])
        links.add(module, SharedCodes(scheme, scales))
        _fix(module, scales)


@torch.no_grad()
def _fix(module: nn.Module, scales: Mapping[str, Tensor]) -> None:
    """Give the scales to a quantizer that is there already."""
    link = weight_quantizer(module)
    if link is None:
        return
    link.fixed = False
    for key in scales:
        link.set_grid(module, key, *link.grid(module, key))
    link.fixed = set(scales) >= set(link.names)
