"""Choosing an exact number of weights in parts of a layer: rows, groups of rows, blocks of columns."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shared_out", "smallest_in_rows"]


def shared_out(total: int, sizes: Tensor, least: Tensor) -> Tensor:
    """Counts that add up to ``total`` exactly, each in proportion to its part's size but not below ``least``.

    Of parts in order, the first k have floor(share x their size + 1/2) in sum, where share is what the total leaves to
    the parts that are not at their least; so equal parts differ by one at most.

    Args:
        total: at least the sum of ``least``, at most that of ``sizes``.
        sizes, least: (parts,), whole numbers; least <= sizes.

    >>> shared_out(5, torch.tensor([4, 4, 4]), torch.tensor([3, 0, 0]))
    tensor([3, 1, 1])
    """
    fixed = torch.zeros_like(least, dtype=torch.bool)
    while True:
        open_sizes = sizes.masked_fill(fixed, 0)
        left, room = total - int(least[fixed].sum()), max(int(open_sizes.sum()), 1)
        ends = (2 * left * open_sizes.cumsum(0) + room) // (2 * room)
        counts = torch.where(fixed, least, ends.diff(prepend=ends.new_zeros(1)))
        short = counts < least
        if not bool(short.any()):
            return counts
        fixed |= short


def smallest_in_rows(scores: Tensor, counts: Tensor) -> Tensor:
    """Mark the ``counts`` smallest scores of each row; ties by index, lowest first.

    Args:
        scores: (rows, n).
        counts: (rows,), 0 to n.

    Returns:
        bool (rows, n).
    """
    marks = torch.zeros_like(scores, dtype=torch.bool)
    places = torch.arange(scores.shape[1], device=scores.device)
    rows = max(1, (1 << 22) // max(scores.shape[1], 1))  # the order takes 8 bytes a weight
    for part, count, mark in zip(*(torch.split(each, rows) for each in (scores, counts, marks)), strict=True):
        mark.scatter_(1, part.argsort(dim=1, stable=True), places < count[:, None])
    return marks
