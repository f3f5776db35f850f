"""Competitions: which weights are ranked together, and how many of their units go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from paredown.framework.model.kinds import LINEAR
from paredown.framework.modifier.curves import share_of
from paredown.modifiers.pruning.masks.floor import least_kept, limits_of, refuse_more_than
from paredown.modifiers.pruning.masks.scope import (
    LayerShares,
    erdos_renyi_kernel_shares,
    shares_within,
    uniform_plus_shares,
    whole_counts,
)
from paredown.modifiers.pruning.scoring.prunable import Prunable

__all__ = ["Competition", "Sharing"]

Scope = str | LayerShares


@dataclass(frozen=True)
class Competition:
    """Weights that are ranked together, how many of their units go, and how many of each at most."""

    members: tuple[str, ...]
    count: int
    limits: tuple[int, ...]


@dataclass(frozen=True)
class Sharing:
    """How zeros are shared out over weights.

    Attributes:
        scope: of the modifier.
        prunables: the weights by name.
        sizes: units of each.
        finals: each weight's share of zeros at the end.
        floor: the least share that each layer keeps; None: the default.
    """

    scope: Scope
    prunables: Mapping[str, Prunable]
    sizes: Mapping[str, int]
    finals: Mapping[str, float]
    floor: float | None = None

    def competitions(
        self,
        share: float,
        held: Mapping[str, int] = MappingProxyType({}),
        deviations: Mapping[str, float] = MappingProxyType({}),
    ) -> list[Competition]:
        """Who competes for how many units, where ``share`` of all units together goes now.

        Args:
            held: units of each that are pruned already; none of them is given back.
            deviations: for ``owl``, how far each weight's share lies from ``share``.

        Raises:
            TargetError: so much cannot go, since each layer keeps its least.
        """
        limits = self._limits(share, held)
        if self.scope == "local" or isinstance(self.scope, LayerShares):
            return _alone({name: min(count, limits[name]) for name, count in self._own_counts(share).items()})
        count = share_of(share, sum(self.sizes.values()))
        refuse_more_than(limits, self.sizes, count)
        if self.scope in ("global", "lamp"):
            return [Competition(tuple(self.sizes), count, tuple(limits.values()))]
        shares = shares_within(self.sizes, self._distributed(share, deviations), count, held, limits)
        return _alone(whole_counts(self.sizes, shares, count, held, limits))

    def _limits(self, share: float, held: Mapping[str, int]) -> dict[str, int]:
        asked = {name: max(self.finals[name], share) for name in self.sizes}
        return limits_of(self.sizes, least_kept(self.sizes, asked, self.floor), held)

    def _own_counts(self, share: float) -> dict[str, int]:
        """Each weight's own count, in proportion to its final share; ``share`` is that of all single weights."""
        if not isinstance(self.scope, LayerShares):
            return {name: share_of(share, size) for name, size in self.sizes.items()}
        final = overall({name: each.weight.numel() for name, each in self.prunables.items()}, self.finals)
        part = 1.0 if share >= final else share / final
        shares = {name: self.finals[name] * part if part < 1 else self.finals[name] for name in self.sizes}
        return {name: share_of(shares[name], size) for name, size in self.sizes.items()}

    def _distributed(self, share: float, deviations: Mapping[str, float]) -> dict[str, float]:
        """Of the scopes that give each weight a share of its own."""
        if self.scope == "owl":
            return {name: min(max(share + deviations.get(name, 0.0), 0.0), 1.0) for name in self.sizes}
        if self.scope == "erk":
            return erdos_renyi_kernel_shares({name: each.view.shape for name, each in self.prunables.items()}, share)
        kinds = {name: each.module for name, each in self.prunables.items()}
        convolutions = [name for name, module in kinds.items() if isinstance(module, nn.modules.conv._ConvNd)]
        linear = [name for name, module in kinds.items() if isinstance(module, LINEAR)]
        first, last = convolutions[0] if convolutions else None, linear[-1] if linear else None
        return uniform_plus_shares(self.sizes, share, first, last)


def overall(sizes: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """The share of all units together."""
    return sum(shares[name] * size for name, size in sizes.items()) / max(sum(sizes.values()), 1)


def _alone(counts: Mapping[str, int]) -> list[Competition]:
    return [Competition((name,), count, (count,)) for name, count in counts.items()]
