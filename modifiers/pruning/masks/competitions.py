"""Competitions: which weights are ranked together, and how many of their units go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from paredown.framework.model.kinds import LINEAR
from paredown.framework.modifier.curves import share_of
from paredown.modifiers.pruning.masks.scope import (
    LayerShares,
    erdos_renyi_kernel_shares,
    uniform_plus_shares,
    whole_counts,
)
from paredown.modifiers.pruning.scoring.prunable import Prunable

__all__ = ["Competition", "competitions"]

Scope = str | LayerShares
#: scopes that give each layer a share, and round so that what is pruned already stays
SHARED_OUT = ("erk", "uniform_plus", "owl")


@dataclass(frozen=True)
class Competition:
    """Weights that are ranked together, and how many of their units go."""

    members: tuple[str, ...]
    count: int


def competitions(
    scope: Scope,
    prunables: Mapping[str, Prunable],
    sizes: Mapping[str, int],
    share: float,
    finals: Mapping[str, float],
    deviations: Mapping[str, float],
    held: Mapping[str, int],
) -> list[Competition]:
    """Who competes for how many units.

    Args:
        scope: of the modifier.
        prunables: the weights by name.
        sizes: units of each.
        share: of all units together that goes now.
        finals: each weight's share at the end.
        deviations: for ``owl``, how far each weight's share lies from ``share``.
        held: of `SHARED_OUT` scopes, units of each that are pruned already; rounding gives none of them back.
    """
    if scope in ("global", "lamp"):
        return [Competition(tuple(sizes), share_of(share, sum(sizes.values())))]
    if scope == "local":
        return _alone({name: share_of(share, size) for name, size in sizes.items()})
    if isinstance(scope, LayerShares):
        return _alone(_on_the_way(prunables, sizes, share, finals))
    shares = _distributed(scope, prunables, sizes, share, deviations)
    return _alone(whole_counts(sizes, shares, share_of(share, sum(sizes.values())), held))


def overall(sizes: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """The share of all units together."""
    return sum(shares[name] * size for name, size in sizes.items()) / max(sum(sizes.values()), 1)


def _alone(counts: Mapping[str, int]) -> list[Competition]:
    return [Competition((name,), count) for name, count in counts.items()]


def _on_the_way(
    prunables: Mapping[str, Prunable], sizes: Mapping[str, int], share: float, finals: Mapping[str, float]
) -> dict[str, int]:
    """Each weight's own count, in proportion to its final share; ``share`` is that of all single weights."""
    final = overall({name: each.weight.numel() for name, each in prunables.items()}, finals)
    part = 1.0 if share >= final else share / final
    return {name: share_of(finals[name] * part if part < 1 else finals[name], size) for name, size in sizes.items()}


def _distributed(
    scope: Scope,
    prunables: Mapping[str, Prunable],
    sizes: Mapping[str, int],
    share: float,
    deviations: Mapping[str, float],
) -> dict[str, float]:
    if scope == "owl":
        return {name: min(max(share + deviations[name], 0.0), 1.0) for name in sizes}
    if scope == "erk":
        return erdos_renyi_kernel_shares({name: each.view.shape for name, each in prunables.items()}, share)
    convolutions = [name for name, each in prunables.items() if isinstance(each.module, nn.modules.conv._ConvNd)]
    linear = [name for name, each in prunables.items() if isinstance(each.module, LINEAR)]
    return uniform_plus_shares(sizes, share, convolutions[0] if convolutions else None, linear[-1] if linear else None)
