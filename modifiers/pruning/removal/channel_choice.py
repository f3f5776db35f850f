"""Which units of channel groups go: worth, ranking, rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from paredown.framework.errors import TargetError
from paredown.framework.modifier.curves import share_of
from paredown.modifiers.pruning.removal.channels import ChannelGroup, Removal

__all__ = ["Progress", "choose", "rounded", "step_of", "worth"]

#: of a group: its units before anything was removed, those that are left, and the channels of one
Progress = list[int]


def worth(
    group: ChannelGroup, scores: Mapping[str, Tensor], outputs_only: bool, combined: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """What each unit is worth: the mean score of all weights in its slices, combined; of shape (units,).

    None where it has no score.

    Args:
        group: whose units.
        scores: additive, by parameter, of the parameters' shapes.
        outputs_only: whether only the slices count that produce outputs.
        combined: the criterion's.

    Raises:
        TargetError: a score is NaN or infinite.
    """
    total = torch.zeros(group.units, dtype=torch.float64)
    count = 0
    for place, slices in group.slices.items():
        name, dimension = place
        if name not in scores or (outputs_only and place not in group.outputs):
            continue
        score = scores[name].detach()
        per_index = score.double().movedim(dimension, 0).reshape(score.shape[dimension], -1).sum(1).cpu()
        total += per_index[slices].sum(1)
        count += slices.shape[1] * (score.numel() // score.shape[dimension])
    if not count:
        return None
    if not bool(torch.isfinite(total).all()):
        raise TargetError(f"a weight of {group.name} is NaN or infinite: its channels cannot be ranked")
    return combined(total / count)


def choose(
    groups: Sequence[ChannelGroup],
    worths: Mapping[str, Tensor],
    progress: Mapping[str, Progress],
    share: float,
    scope: str,
    round_to: int,
) -> list[Removal]:
    """The units of lowest worth, so that ``share`` of the original channels are gone.

    Args:
        groups: as they are now.
        worths: of each group's units, by its name.
        progress: of all groups that count, by key; those that are no longer among ``groups`` too.
        share: of the original channels, 0 to 1.
        scope: ``global``: all units are ranked together; ``local``: each group loses the same share.
        round_to: what stays of a group is a multiple of so many channels, at least one; see `rounded`.
    """
    if scope == "local":
        counts = [group.units - _kept(group, progress, share) for group in groups]
    else:
        counts = _global_counts(groups, worths, progress, share, round_to)
    removals = []
    for group, count in zip(groups, counts, strict=True):
        stays = rounded(group.units - count, progress[group.key][0], group.width, round_to)
        gone = group.units - min(stays, group.units)
        order = torch.sort(worths[group.name], stable=True).indices
        if gone:
            removals.append(Removal(group, order[:gone].sort().values))
    return removals


def rounded(units: int, original: int, width: int, round_to: int) -> int:
    """How many units stay: the nearest number that gives a multiple of ``round_to`` channels, at least one such.

    >>> rounded(11, 32, 1, 8), rounded(3, 32, 1, 8), rounded(3, 12, 64, 8)
    (8, 8, 3)
    """
    step = step_of(width, round_to)
    return min(max(step, step * math.floor(units / step + 0.5)), original)


def step_of(width: int, round_to: int) -> int:
    """The fewest units of so many channels that make a multiple of ``round_to`` channels."""
    return round_to // math.gcd(width, round_to)


def _kept(group: ChannelGroup, progress: Mapping[str, Progress], share: float) -> int:
    original = progress[group.key][0]
    return min(original - share_of(share, original), group.units)


def _global_counts(
    groups: Sequence[ChannelGroup],
    worths: Mapping[str, Tensor],
    progress: Mapping[str, Progress],
    share: float,
    round_to: int,
) -> list[int]:
    """Units of lowest worth of all groups together; what has to stay of each group is not ranked."""
    widths = torch.cat([torch.full((group.units,), group.width) for group in groups])
    owner = torch.cat([torch.full((group.units,), place) for place, group in enumerate(groups)])
    total = sum(original * width for original, _, width in progress.values())
    left = sum(left * width for _, left, width in progress.values())
    wanted = share_of(share, total) - (total - left)
    ranked = torch.cat(
        [_ranked(worths[group.name], rounded(0, group.units, group.width, round_to)) for group in groups]
    )
    order = torch.sort(ranked, stable=True).indices
    order = order[: int(torch.isfinite(ranked).sum())]
    through = torch.cumsum(widths[order], 0) <= wanted
    return torch.bincount(owner[order[through]], minlength=len(groups)).tolist()


def _ranked(worths: Tensor, staying: int) -> Tensor:
    """Worths, infinite for the best ``staying`` units."""
    ranked = worths.clone()
    ranked[torch.sort(worths, stable=True).indices[len(worths) - staying :]] = torch.inf
    return ranked
