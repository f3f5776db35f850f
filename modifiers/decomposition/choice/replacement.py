"""Replacing layers by their decomposed forms: all are computed first, then put in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.model.fused_layers import attributes_without_fast_path
from paredown.framework.model.weights import refuse_not_finite
from paredown.framework.modifier.training import Training
from paredown.modifiers.decomposition.choice.calibration import calibrated_factors
from paredown.modifiers.decomposition.choice.sites import Site, Sites
from paredown.modifiers.decomposition.forms.base import Ranks

__all__ = ["UNCHANGED", "UseOfData", "decompose_layers"]

UNCHANGED = "it cannot be decomposed; nothing was changed"


@dataclass(frozen=True)
class UseOfData:
    """Whether calibration data is used to keep activations, and how many samples of it (None: all)."""

    activation_aware: bool
    samples: int | None


def decompose_layers(
    training: Training,
    sites: Sites,
    ranks: Mapping[str, Ranks],
    final: Mapping[str, Ranks],
    fields: Mapping[str, Any],
    use: UseOfData,
) -> None:
    """Give layers these ranks.

    Args:
        sites: of which those in ``ranks`` are treated.
        ranks: now.
        final: at the end of the window; a checkpoint keeps them.
        fields: of the modifier, that decide about the forms; a checkpoint keeps them.
        use: what the data is used for.

    Raises:
        TargetError: weights that are not finite, or a decomposition that does not converge; names the layer.
        ScheduleError: that of the data. Nothing is changed then.
    """
    layers = {name: site for name, site in sites.layers.items() if name in ranks}
    for name, site in layers.items():
        refuse_not_finite(name, site.module, UNCHANGED)
    with sites.standing(training.model):
        news = _new_modules(training, layers, ranks, use)
    _leave_fast_paths(training, news)
    for name in dict.fromkeys(site.attention for name, site in layers.items() if site.attention and name in news):
        training.surgery.replace(name, sites.attentions[name], training.name, {"attention": True})
    for name, new in news.items():
        geometry = layers[name].form.geometry.to_plain()
        spec = {"ranks": list(ranks[name]), "final": list(final[name]), "geometry": geometry, "fields": dict(fields)}
        training.surgery.replace(name, new, training.name, spec)
        training.record("decompose", layer=name, rank=list(ranks[name]))


def _leave_fast_paths(training: Training, news: Mapping[str, nn.Module]) -> None:
    for (name, key), value in attributes_without_fast_path(training.model, news).items():
        training.surgery.set_attribute(name, key, value)


def _new_modules(
    training: Training, layers: Mapping[str, Site], ranks: Mapping[str, Ranks], use: UseOfData
) -> dict[str, nn.Module]:
    """What takes the layers' places; those that object to their factors are left as they are."""
    calibrated: Mapping[str, list[Tensor]] = {}
    if use.activation_aware and layers:
        calibrated = calibrated_factors(training, layers, ranks, use.samples)
    news = {}
    for name, site in layers.items():
        factors = calibrated[name] if name in calibrated else _factors(site, ranks[name])
        objection = site.form.objection(site.tensor, factors)
        if objection is None:
            news[name] = _in_layout_of(site, site.form.module(factors, site.bias))
        else:
            training.refuse({name: objection})
    return news


def _in_layout_of(site: Site, new: nn.Module) -> nn.Module:
    """The new layers in the memory format of the old weight, contiguous otherwise: as a checkpoint gives them back."""
    for each in new.parameters():
        each.data = each.data.contiguous()
    layout = torch.channels_last
    old = [each for each in site.module.parameters() if each.dim() == 4]
    if any(each.is_contiguous(memory_format=layout) and not each.is_contiguous() for each in old):
        new.to(memory_format=layout)  # type: ignore[call-overload]
    return new


def _factors(site: Site, ranks: Ranks) -> list[Tensor]:
    try:
        factors = site.form.factors(site.tensor, ranks)
    except (ArithmeticError, RuntimeError) as error:
        raise TargetError(f"{site.name} was not decomposed, {error}; nothing was changed") from error
    if not all(bool(torch.isfinite(each).all()) for each in factors):
        raise TargetError(f"{site.name} was not decomposed, its factors hold NaN or infinity; nothing was changed")
    return factors
