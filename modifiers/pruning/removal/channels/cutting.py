"""Removing units of channel groups: what goes, what stays, and doing it for good after it was tried out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.model.forward import Forward
from paredown.framework.model.surgery import Surgery
from paredown.modifiers.pruning.removal.channels.analysis import Analysis
from paredown.modifiers.pruning.removal.channels.attributes import Attribute
from paredown.modifiers.pruning.removal.channels.configuration import settings_for
from paredown.modifiers.pruning.removal.channels.groups import ChannelGroup, Place
from paredown.modifiers.pruning.removal.channels.trial import trial_cut

__all__ = ["Cut", "Removal", "Verified", "commit", "gone_at", "kept_at", "labels_gone", "with_settings"]


@dataclass(frozen=True)
class Removal:
    """Units of a group that go: their indices, of shape (units that go,)."""

    group: ChannelGroup
    units: Tensor


@dataclass(frozen=True)
class Cut:
    """A change that was tried out.

    Attributes:
        removals: what goes.
        kept: the indices that stay of each place.
        attributes: of modules, that come with it.
        sizes: which sizes of values become which.
    """

    removals: tuple[Removal, ...]
    kept: Mapping[Place, Tensor]
    attributes: tuple[Attribute, ...]
    sizes: Mapping[int, frozenset[int]] = field(default_factory=dict)


@dataclass
class Verified:
    """What can be cut, which groups cannot, with the reason, and which nothing is known of."""

    cut: Cut
    refused: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


def with_settings(model: nn.Module, cut: Cut, inputs: Any, forward: Forward | None) -> tuple[Cut, str | None]:
    """The cut with the changes of the model's config that go with it, and a remark where there are none."""
    with trial_cut(model, cut.kept, cut.attributes):
        settings, remark = settings_for(model, cut.sizes, inputs, forward)
    return dataclasses.replace(cut, attributes=(*cut.attributes, *settings)), remark


def commit(surgery: Surgery, cut: Cut) -> None:
    """Do for good what was tried out."""
    for (name, dimension), indices in cut.kept.items():
        surgery.shrink(name, dimension, indices)
    for attribute in cut.attributes:
        surgery.set_attribute(attribute.module, attribute.key, attribute.value)


def gone_at(removals: Sequence[Removal]) -> dict[Place, Tensor]:
    """The indices that go at each place, rising."""
    gone: dict[Place, list[Tensor]] = {}
    for removal in removals:
        for place, slices in removal.group.slices.items():
            gone.setdefault(place, []).append(slices[removal.units].reshape(-1))
    return {place: torch.cat(parts).sort().values for place, parts in gone.items()}


def labels_gone(analysis: Analysis, removals: Sequence[Removal]) -> Tensor:
    """By label, whether it goes; of shape (labels,)."""
    classes = analysis.classes.of
    gone = torch.zeros(analysis.labels.count, dtype=torch.bool)
    first = {(each.tensor, each.dimension): each.first for each in analysis.labels.origins}
    for removal in removals:
        place, slices = next(iter(removal.group.slices.items()))
        gone[classes[slices[removal.units].reshape(-1) + first[place]]] = True
    return gone[classes]


def kept_at(gone: Mapping[Place, Tensor], tensors: Mapping[str, Tensor]) -> dict[Place, Tensor]:
    """The indices that stay at each place, rising."""
    kept = {}
    for (name, dimension), indices in gone.items():
        stays = torch.ones(tensors[name].shape[dimension], dtype=torch.bool)
        stays[indices] = False
        kept[name, dimension] = stays.nonzero().reshape(-1)
    return kept
