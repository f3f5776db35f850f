"""What a scan of sensitivity tries of a pruning modifier: each layer alone, at several shares of zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.model.targets import pattern_of
from paredown.framework.modifier.curves import share_of
from paredown.framework.modifier.fields import Trial
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.choice import chosen_units, marks_of
from paredown.modifiers.pruning.masks.competitions import Competition
from paredown.modifiers.pruning.masks.floor import least_kept
from paredown.modifiers.pruning.masks.rows import RowPruning, prune_rows
from paredown.modifiers.pruning.masks.state import MaskState
from paredown.modifiers.pruning.masks.update import MaskUpdate, UnitScores
from paredown.modifiers.pruning.scoring.prunable import Prunable
from paredown.modifiers.pruning.scoring.units import Pattern
from paredown.modifiers.pruning.selection.select import smallest

__all__ = ["SHARES", "layer_shares", "mask_trials", "row_trials"]

#: shares of zeros that are tried; of an N:M pattern its own alone
SHARES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
#: after a setting, a share that is shown in hundredths
UNIT = "% zeros"


def mask_trials(update: MaskUpdate, state: MaskState, prunables: Mapping[str, Prunable]) -> list[Trial]:
    """Each layer with the zeros that ``update`` gives it at each share of its own, its other weights as they are.

    All weights are scored here, once, as the model is now; one byte a weight is kept.

    Raises:
        ScheduleError, TargetError: those of the criterion.
    """
    scores, shares = UnitScores(update, state, prunables), _shares(update.structure, update.floor)
    layers: dict[str, dict[nn.Parameter, Tensor]] = {}
    for one in prunables.values():
        layers.setdefault(one.layer, {})[one.weight] = _levels(update, one, scores, shares)
    return [
        _trial(layer, share, list(levels), _left(levels, place), partial(_zeroed, levels, place))
        for layer, levels in layers.items()
        for place, share in enumerate(shares)
    ]


def row_trials(
    weights: Mapping[str, Tensor],
    known: Iterable[tuple[str, Tensor]],
    pattern: Pattern | None,
    floor: float | None,
    prune: RowPruning,
) -> list[Trial]:
    """Each layer as ``prune`` leaves it at each share, the updates of what stays included; what stays is kept.

    Args:
        weights: by layer, in the order of the trials, output channels first: views of what is rewritten.
        known: of each layer's inputs, in any order.
        pattern: N:M, or None.
        floor: the least share that each layer keeps; None: the default.
        prune: see `paredown.modifiers.pruning.masks.rows.prune_rows`.
    """
    trials: dict[str, list[Trial]] = {}
    for layer, moments in known:
        weight = weights[layer]
        for share in _shares(pattern, floor):
            goal = _count(share, weight.numel(), floor) if pattern is None else pattern
            new, keep = prune_rows(weight, moments, goal, prune)
            treated = partial(_rewritten, weight, keep, new[keep].to(weight.dtype))
            trials.setdefault(layer, []).append(_trial(layer, share, [weight], int(keep.sum()), treated))
    return [trial for layer in weights for trial in trials[layer]]


def layer_shares(training: Training, settings: Mapping[str, float | None]) -> dict[str, Any]:
    """The fields of a recipe that give each layer its share of zeros; None: no zeros."""
    shares = {pattern_of(training.model, layer): share or 0.0 for layer, share in settings.items()}
    return {"scope": {"layers": shares}, "final_sparsity": None}


def _shares(structure: object, floor: float | None) -> Sequence[float]:
    if isinstance(structure, Pattern):
        return (structure.share,)
    return [share for share in SHARES if floor is None or share <= 1 - floor]


def _count(share: float, size: int, floor: float | None) -> int:
    """How many units of a layer go at a share of its own."""
    return min(share_of(share, size), size - least_kept({"": size}, {"": share}, floor)[""])


def _trial(
    layer: str,
    share: float,
    weights: Sequence[Tensor],
    left: int,
    treated: Callable[[], AbstractContextManager[None]],
) -> Trial:
    return Trial(layer, share, UNIT, left, sum(weight.numel() for weight in weights), treated)


def _levels(update: MaskUpdate, one: Prunable, scores: UnitScores, shares: Sequence[float]) -> Tensor:
    """How many of the shares leave each weight, uint8: what a share takes, every larger one takes too."""
    levels = torch.zeros_like(one.weight, dtype=torch.uint8, requires_grad=False)
    for marks in _marks(update, one, scores, shares):
        levels += ~marks
    return levels


def _marks(update: MaskUpdate, one: Prunable, scores: UnitScores, shares: Sequence[float]) -> Iterator[Tensor]:
    """Which weights go at each share, chosen as `MaskUpdate.run` does."""
    if update.criterion.by_magnitude and update.structure.free:
        for share in shares:
            count = _count(share, one.weight.numel(), update.floor)
            yield smallest([one.weight.detach()], count, names=[one.name])[0]
        return
    units = {one.name: scores.of(one.name)}
    for share in shares:
        count = _count(share, update.structure.count(one.view.shape), update.floor)
        contest = Competition((one.name,), count, (count,))
        yield marks_of(one, chosen_units(units, contest, update.structure)[one.name], update.structure)


def _left(levels: Mapping[nn.Parameter, Tensor], place: int) -> int:
    return sum(int((level > place).sum()) for level in levels.values())


@contextmanager
def _zeroed(levels: Mapping[nn.Parameter, Tensor], place: int) -> Iterator[None]:
    with _put_back(list(levels)):
        for weight, level in levels.items():
            weight.detach().masked_fill_(level <= place, 0)
        yield


@contextmanager
def _rewritten(weight: Tensor, keep: Tensor, values: Tensor) -> Iterator[None]:
    with _put_back([weight]):
        weight.detach().zero_().masked_scatter_(keep, values)
        yield


@contextmanager
def _put_back(weights: Sequence[Tensor]) -> Iterator[None]:
    kept = [weight.detach().clone() for weight in weights]
    try:
        yield
    finally:
        for weight, values in zip(weights, kept, strict=True):
            weight.detach().copy_(values)
