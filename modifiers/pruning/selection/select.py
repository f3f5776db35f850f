"""Exact selection of the smallest scores over many tensors: by count, never by comparing with a threshold alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.framework.distributed.shards import own_part, sharded_in
from paredown.modifiers.pruning.selection.chunks import INTEGER_OF_WIDTH, chunks, logical_chunks
from paredown.modifiers.pruning.selection.sharded import RadixSearch
from paredown.modifiers.pruning.selection.threshold import Order, Search, ordered_keys

__all__ = ["Threshold", "find_threshold", "marked", "smallest", "tied"]


@dataclass(frozen=True)
class Threshold:
    """Where a selection ends: every key below ``key``, and the first ``ties`` of the ``tied`` keys equal to it.

    ``dtype`` is the floating-point type that keys are taken in, the widest of the tensors (see `ordered_keys`).
    ``quotas``, where tensors are split among processes: of the ties how many are this process's, tensor by tensor.
    """

    key: int
    ties: int
    tied: int
    dtype: torch.dtype
    order: Order = "magnitude"
    quotas: tuple[int, ...] = ()

    @property
    def last(self) -> int:
        """The largest key that is selected whole: ties are taken together where all of them go."""
        return self.key if self.ties == self.tied else self.key - 1

    @property
    def partial(self) -> bool:
        """Whether some of the ties go and some stay."""
        return 0 < self.ties < self.tied


def find_threshold(
    scores: Sequence[Tensor], count: int, *, order: Order = "magnitude", names: Sequence[str] | None = None
) -> Threshold:
    """Find the threshold that selects exactly ``count`` smallest scores of all tensors together.

    Args:
        scores: tensors of any shapes, layouts, floating-point types and devices, also DTensors, whose threshold all
            processes find together; they are only read. About 2% of their size is needed besides.
        count: how many, 0 to the number of all elements.
        order: compare absolute values, or signed values.
        names: for error messages, one for each tensor.

    Raises:
        ValueError: ``count`` is out of range.
        TargetError: a score is NaN; names the tensor.
    """
    total = sum(tensor.numel() for tensor in scores)
    if not 0 <= count <= total:
        raise ValueError(f"cannot select {count} of {total} scores")
    dtype = _widest(scores)
    names = names or [f"tensor {index}" for index in range(len(scores))]
    parts = RadixSearch(scores, dtype, order, names) if sharded_in(scores) else None
    if parts is not None and count:
        return _of_parts(parts, count)
    search = Search(scores, count, dtype, order, names)
    if count == 0:
        (parts or search).refuse_nan()
        return Threshold(torch.iinfo(INTEGER_OF_WIDTH[dtype.itemsize]).min + 1, 0, 1, dtype, order)
    key, below, equal = search.run()
    return Threshold(key, count - below, equal, dtype, order)


def smallest(
    scores: Sequence[Tensor], count: int, *, order: Order = "magnitude", names: Sequence[str] | None = None
) -> list[Tensor]:
    """Mark exactly ``count`` smallest scores of all tensors together; ties go by tensor, then flat index, lowest first.

    Arguments and errors are those of `find_threshold`.

    Returns:
        bool tensors of the scores' shapes, True for what was selected; of DTensors, for the part in this process.

    >>> smallest([torch.tensor([3.0, -1.0]), torch.tensor([1.0, 0.5])], 2)
    [tensor([False,  True]), tensor([False,  True])]
    """
    return marked(scores, find_threshold(scores, count, order=order, names=names))


def marked(scores: Sequence[Tensor], threshold: Threshold) -> list[Tensor]:
    """Mark what a threshold of theirs selects; see `smallest`."""
    scores = [own_part(tensor) for tensor in scores]
    marks = [torch.empty_like(tensor, dtype=torch.bool, requires_grad=False) for tensor in scores]
    for tensor, mark in zip(scores, marks, strict=True):
        for part, target in chunks(tensor, mark):
            torch.le(ordered_keys(part, threshold.dtype, threshold.order), threshold.last, out=target)
    for part, target in tied(threshold, scores, marks):
        target.masked_fill_(part, True)
    return marks


def tied(threshold: Threshold, scores: Sequence[Tensor], *others: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The ties that are selected, where only some are: bool pieces, each with the same piece of its other tensors."""
    left = threshold.ties if threshold.partial else 0
    for place, tensors in enumerate(zip(scores, *others, strict=True)):
        if threshold.quotas:
            left = threshold.quotas[place]
        for part, *rest in logical_chunks(*tensors) if left else ():
            equal = ordered_keys(part, threshold.dtype, threshold.order) == threshold.key
            found = min(int(equal.count_nonzero()), left)
            left -= found
            if found:
                yield _first(equal, found), *rest
            if not left:
                break


def _first(marks: Tensor, count: int) -> Tensor:
    """The first ``count`` of the marks, in the order of the indices."""
    first = torch.zeros(marks.numel(), dtype=torch.bool, device=marks.device)
    first[marks.flatten().nonzero().flatten()[:count]] = True
    return first.view(marks.shape)


def _of_parts(search: RadixSearch, count: int) -> Threshold:
    key, below, equal = search.run(count)
    ties = count - below
    quotas = search.quotas(key, ties) if 0 < ties < equal else ()
    return Threshold(key, ties, equal, search.dtype, search.order, quotas)


def _widest(scores: Sequence[Tensor]) -> torch.dtype:
    dtype = scores[0].dtype if scores else torch.float32
    for tensor in scores[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
