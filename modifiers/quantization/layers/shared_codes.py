"""Layers whose weights share few codes: their scales are kept, so that the codes stay the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from paredown.framework.model.links import Link, links_of
from paredown.framework.model.weights import WeightLayout
from paredown.modifiers.quantization.numbers.formats import FLOAT_FORMATS, values_of
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import kept_scale, spread, view_for, view_of

__all__ = ["SharedCodes", "grid_scale", "kept_scales", "levels_of", "scale_of_each"]


class SharedCodes(Link):
    """Around a layer whose weights are few codes times the scales of a grid: whoever quantizes them has these scales.

    Args:
        scheme: of the grid.
        scales: by the weight's name, as kept.
    """

    permanent = True

    def __init__(self, scheme: WeightScheme, scales: Mapping[str, Tensor]) -> None:
        self.scheme = scheme
        self.scales = dict(scales)


def kept_scales(module: nn.Module, name: str, scheme: WeightScheme) -> Tensor | None:
    """The scales at which a weight's codes are few, for integers of any width; None: they are free."""
    link = next((link for link in links_of(module) if isinstance(link, SharedCodes)), None)
    if link is None or name not in link.scales:
        return None
    weight = module._parameters[name]
    scale = link.scales[name] if weight is None else link.scales[name].to(weight.device)
    own, other = link.scheme.half_range, scheme.half_range
    return scale if own == other else scale * (own / other)


def levels_of(scheme: WeightScheme, largest: int | None = None) -> Tensor:
    """The numbers of a symmetric grid of scale 1 but for 0, up to a largest magnitude, in rising order; float64."""
    if scheme.format == "int":
        numbers = torch.arange(scheme.lowest, scheme.highest + 1, dtype=torch.float64)
    else:
        codes = torch.arange(1 << FLOAT_FORMATS[scheme.format].bits, dtype=torch.uint8)
        numbers = values_of(codes, scheme.format, torch.float32).double()
    most = torch.inf if largest is None else largest
    found: Tensor = torch.unique(numbers[torch.isfinite(numbers) & (numbers != 0) & (numbers.abs() <= most)])
    return found


def scale_of_each(scale: Tensor, weight: Tensor, layout: WeightLayout, scheme: WeightScheme) -> Tensor:
    """A kept scale for the weights themselves: of their shape, or 1 in some dimensions."""
    rows = layout.rows(weight)
    if scheme.granularity == "tensor":
        return scale.reshape([1] * weight.dim())
    if scheme.granularity == "channel" and layout.groups == 1:
        return layout.kept(scale.reshape(-1, *[1] * (rows.dim() - 1)))
    each = spread(scale, scheme).expand(view_for(rows, scheme).shape).reshape(rows.shape)
    return layout.kept(each).contiguous()


def grid_scale(each: Tensor, weight: Tensor, layout: WeightLayout, scheme: WeightScheme) -> Tensor:
    """The inverse of `scale_of_each`; signs are left out."""
    view, shared = view_of(layout.rows(each.abs().expand(weight.shape)), scheme)
    return kept_scale(view.amax(shared, keepdim=True), scheme)
