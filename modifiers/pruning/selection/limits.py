"""Selection of the smallest scores over many tensors where each gives no more than its limit, exactly by count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from paredown.framework.distributed.shards import own_part, sharded_in, sums_of_parts
from paredown.modifiers.pruning.selection.chunks import chunks
from paredown.modifiers.pruning.selection.select import Threshold, find_threshold, marked
from paredown.modifiers.pruning.selection.threshold import Order, ordered_keys

__all__ = ["find_thresholds", "selected", "smallest_within"]


def find_thresholds(
    scores: Sequence[Tensor],
    count: int,
    limits: Sequence[int],
    *,
    order: Order = "magnitude",
    names: Sequence[str] | None = None,
) -> list[tuple[tuple[int, ...], Threshold]]:
    """Thresholds that together select exactly ``count`` smallest scores, and of no tensor more than its limit.

    A tensor that would give more than its limit gives just that, by a threshold of its own, and the others give more.
    Where none does, this is `find_threshold`, whose other arguments and errors it has.

    Args:
        limits: one for each tensor; ``count`` is at most their sum.

    Returns:
        places of tensors, each place once, with the threshold that they share.
    """
    names = names or [f"tensor {index}" for index in range(len(scores))]
    together = list(range(len(scores)))
    found: list[tuple[tuple[int, ...], Threshold]] = []
    while True:
        group = [scores[place] for place in together]
        threshold = find_threshold(group, count, order=order, names=[names[place] for place in together])
        full = [together[index] for index in _over(group, threshold, [limits[place] for place in together])]
        if not full:
            return [*found, (tuple(together), threshold)]
        for place in full:
            own = find_threshold([scores[place]], limits[place], order=order, names=[names[place]])
            found.append(((place,), own))
        count -= sum(limits[place] for place in full)
        together = [place for place in together if place not in full]


def smallest_within(
    scores: Sequence[Tensor],
    count: int,
    limits: Sequence[int],
    *,
    order: Order = "magnitude",
    names: Sequence[str] | None = None,
) -> list[Tensor]:
    """Mark what `find_thresholds` selects, as `paredown.modifiers.pruning.selection.select.smallest` does.

    >>> smallest_within([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], 2, [1, 2])
    [tensor([ True, False]), tensor([ True, False])]
    """
    marks: dict[int, Tensor] = {}
    for places, threshold in find_thresholds(scores, count, limits, order=order, names=names):
        marks.update(zip(places, marked([scores[place] for place in places], threshold), strict=True))
    return [marks[place] for place in range(len(scores))]


def selected(scores: Sequence[Tensor], threshold: Threshold) -> list[int]:
    """How many of each tensor a threshold of theirs selects; of DTensors in all processes."""
    counts, left = [], threshold.ties if threshold.partial else 0
    for place, part in enumerate(map(own_part, scores)):
        ties = _keys_that(part, threshold, torch.eq, threshold.key) if left else 0
        taken = threshold.quotas[place] if threshold.quotas else min(ties, left)
        left -= 0 if threshold.quotas else taken
        counts.append(_keys_that(part, threshold, torch.le, threshold.last) + taken)
    return sums_of_parts(counts, scores)


def _over(scores: Sequence[Tensor], threshold: Threshold, limits: Sequence[int]) -> list[int]:
    """Places of the tensors of which a threshold of theirs selects more than their limit."""
    suspects = list(range(len(scores)))
    if not sharded_in(scores):
        suspects = [place for place in suspects if not _keeps(scores[place], threshold, limits[place])]
    if not suspects:
        return []
    counted = suspects if not threshold.partial else range(len(scores))  # ties go by tensor: those before count too
    numbers = dict(zip(counted, selected([scores[place] for place in counted], threshold), strict=True))
    return [place for place in suspects if numbers[place] > limits[place]]


def _keeps(scores: Tensor, threshold: Threshold, limit: int) -> bool:
    """Whether enough of a tensor lies above all that is selected; reads no more of it than it needs to know."""
    above, least = 0, scores.numel() - limit
    for (part,) in chunks(scores):
        if above >= least:
            break
        above += int((ordered_keys(part, threshold.dtype, threshold.order) > threshold.key).count_nonzero())
    return above >= least


def _keys_that(part: Tensor, threshold: Threshold, compare: Callable[..., Tensor], key: int) -> int:
    """How many keys of a tensor compare so with a key."""
    pieces = chunks(part) if part.numel() else ()
    keys = (ordered_keys(piece, threshold.dtype, threshold.order) for (piece,) in pieces)
    return sum(int(compare(each, key).count_nonzero()) for each in keys)
