"""Removing units of channel groups: tried out and compared with zeros in their place, then done for good."""

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
from paredown.modifiers.pruning.removal.channels.attributes import Attribute, candidates, layer_attributes, sizes_after
from paredown.modifiers.pruning.removal.channels.configuration import settings_for
from paredown.modifiers.pruning.removal.channels.groups import ChannelGroup, Place
from paredown.modifiers.pruning.removal.channels.trial import (
    Outputs,
    Runner,
    difference,
    masked,
    relative_error,
    tensors_by_name,
    trial_cut,
)

__all__ = ["Cut", "Removal", "Verified", "commit", "gone_at", "kept_at", "labels_gone", "verified", "with_settings"]

#: how many combinations of attributes are tried for one group
ATTEMPTS = 40
#: batch statistics enlarge rounding
SLACK = 100.0
#: what sums in another order differ by, in units of the precision
ROUNDING = 16.0


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


def verified(model: nn.Module, run: Runner, analysis: Analysis, removals: Sequence[Removal]) -> Verified:
    """Try a cut out: the cut model has to give what the model gives with zeros in the place of what goes.

    Where it does not, the groups that are to blame are found and left out. The model is as it was afterwards.

    Args:
        model: the user's own module.
        run: from `runner`.
        analysis: of the model as it is.
        removals: what is to go; of each group at least one unit stays.
    """
    return _Trials(model, run, analysis).solve([removal for removal in removals if len(removal.units)])


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


class _Trials:
    def __init__(self, model: nn.Module, run: Runner, analysis: Analysis) -> None:
        self.model, self.run, self.analysis = model, run, analysis
        self.modules = analysis.graph.modules
        self.tensors = tensors_by_name(model)
        self.refused: dict[str, str] = {}
        self.rejected: set[tuple[type, str]] = set()

    def solve(self, removals: Sequence[Removal]) -> Verified:
        good = self._good(removals)
        cut = Cut((), {}, ())
        if good:
            found, reason = self._tried(good, thorough=False)
            cut = found or cut
            if found is None:  # each alone would do
                self.refused.update({removal.group.name: str(reason) for removal in good})
        return Verified(cut, self.refused)

    def _good(self, removals: Sequence[Removal]) -> list[Removal]:
        """Those that can go, by halves."""
        if not removals:
            return []
        found, reason = self._tried(removals, thorough=len(removals) == 1)
        if found is not None:
            return list(removals)
        if len(removals) == 1:
            self.refused[removals[0].group.name] = str(reason)
            return []
        half = len(removals) // 2
        return self._good(removals[:half]) + self._good(removals[half:])

    def _tried(self, removals: Sequence[Removal], thorough: bool) -> tuple[Cut | None, str | None]:
        gone = gone_at(removals)
        kept = kept_at(gone, self.tensors)
        if any(not len(indices) for indices in kept.values()):
            return None, "nothing of it would stay"
        with masked(self.model, gone):
            try:
                wanted = self.run()
                trained = None if self.run.trains == "not" else self.run.training()
            except Exception as error:  # whatever the user's code raises
                return None, f"with zeros in their place its code fails ({_told(error)})"
        own = layer_attributes(self.modules, kept)
        sizes = sizes_after(self.analysis, labels_gone(self.analysis, removals))
        further = candidates(self.modules, sizes, own)
        further = [each for each in further if (each.kind, each.key) not in self.rejected]
        reason = None
        for attempt in _attempts(further, thorough):
            attributes = [*own, *attempt]
            why = self._compared(kept, attributes, wanted, trained)
            if why is None:
                attempt = self._needed(kept, own, attempt, wanted, trained)
                self.rejected |= {(each.kind, each.key) for each in further if each not in attempt}
                changed = [each for each in [*own, *attempt] if self._now(each) != each.value]
                after = {before: frozenset(each) for before, each in sizes[""].items()}
                return Cut(tuple(removals), kept, tuple(changed), after), None
            reason = reason or why
        return None, reason

    def _needed(
        self,
        kept: Mapping[Place, Tensor],
        own: Sequence[Attribute],
        attempt: list[Attribute],
        wanted: Outputs,
        trained: Outputs | None,
    ) -> list[Attribute]:
        """The attributes without which it would not do as well; others that only look like a size stay."""
        error = self._error(kept, [*own, *attempt], wanted)
        for kind in dict.fromkeys((each.kind, each.key) for each in attempt):
            fewer = [each for each in attempt if (each.kind, each.key) != kind]
            alike = self._compared(kept, [*own, *fewer], wanted, trained) is None
            if alike and self._error(kept, [*own, *fewer], wanted) <= max(4 * error, ROUNDING * _precision(wanted)):
                attempt = fewer
        return attempt

    def _error(self, kept: Mapping[Place, Tensor], attributes: Sequence[Attribute], wanted: Outputs) -> float:
        with trial_cut(self.model, kept, attributes):
            return max((relative_error(a, b) for a, b in zip(self.run(), wanted, strict=True)), default=0.0)

    def _compared(
        self,
        kept: Mapping[Place, Tensor],
        attributes: Sequence[Attribute],
        wanted: Outputs,
        trained: Outputs | None,
    ) -> str | None:
        with trial_cut(self.model, kept, attributes):
            try:
                reason = difference(self.run(), wanted)
                if reason is not None or trained is None:
                    return reason
                reason = self._compared_in_training(trained)
                return reason and f"in training mode {reason}"
            except Exception as error:  # whatever the user's code raises when a size does not fit
                return f"with fewer channels its code fails ({_told(error)})"

    def _compared_in_training(self, wanted: Outputs) -> str | None:
        """Parts that only run in training (an auxiliary head) have to work too, and give the same where they can."""
        outputs = self.run.training()
        if self.run.trains == "always alike":
            return difference(outputs, wanted, SLACK)
        same = [part.shape for part in outputs] == [part.shape for part in wanted]
        return None if same else "its output has another shape"

    def _now(self, attribute: Attribute) -> object:
        return getattr(self.modules[attribute.module], attribute.key)


def _precision(outputs: Outputs) -> float:
    return max((torch.finfo(each.dtype).eps for each in outputs if each.is_floating_point()), default=0.0)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0][:160]


def _attempts(further: Sequence[Attribute], thorough: bool) -> list[list[Attribute]]:
    """Which attributes to change: all, none, and then (``thorough``) by kind of module and name."""
    attempts: list[list[Attribute]] = [list(further)]
    if not further:
        return attempts
    attempts.append([])
    if thorough:
        kinds = list(dict.fromkeys((each.kind, each.key) for each in further))
        attempts += [[each for each in further if (each.kind, each.key) == kind] for kind in kinds]
        attempts += [[each for each in further if (each.kind, each.key) != kind] for kind in kinds]
        attempts += [
            [each for each in further if (each.kind, each.key) in (one, two)]
            for place, one in enumerate(kinds)
            for two in kinds[place + 1 :]
        ]
    return attempts[:ATTEMPTS]
