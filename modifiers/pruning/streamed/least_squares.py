"""Solving for the weights that stay, so that a layer's output changes least."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from paredown.framework.calibration.second_moments import damped_moments

__all__ = ["least_squares_update", "refitted"]

#: elements of the systems that are solved at once
BATCH = 1 << 20


def refitted(rows: Tensor, pruned: Tensor, moments: Tensor, damping: float) -> Tensor:
    """`least_squares_update` for second moments as they were gathered, which are damped first."""
    return least_squares_update(rows, pruned, torch.stack([damped_moments(each, damping) for each in moments]))


def least_squares_update(rows: Tensor, pruned: Tensor, moments: Tensor) -> Tensor:
    """Exact row-wise least squares: of all w' that are zero where ``pruned``, those nearest to w in what they give.

    A row's (w' - w) M (w' - w)^T is least where w'_k = w_k + M_kk^-1 M_kp w_p, with k the kept and p the pruned columns
    (Frantar & Alistarh, 2022, arXiv:2208.11580, section 4, the group update). Rows with about as many kept columns are
    solved together, as systems of that size.

    Args:
        rows: (out, n).
        pruned: bool, (out, n).
        moments: M, (groups, n, n), positive definite; the rows of a group follow each other.

    Returns:
        (out, n) in the type of ``moments``; zero where pruned.
    """
    rows = rows.to(moments.dtype)
    new = rows.masked_fill(pruned, 0)
    lost = (rows - new).view(len(moments), -1, rows.shape[1]).bmm(moments).flatten(0, 1)
    kept = (~pruned).sum(1)
    for batch in _batches(kept):
        size = int(kept[batch].max())
        columns = pruned[batch].byte().argsort(dim=1, stable=True)[:, :size]
        valid = ~pruned[batch].gather(1, columns)
        group = batch.div(len(rows) // len(moments), rounding_mode="floor")
        system = moments[group[:, None, None], columns[:, :, None], columns[:, None, :]]
        if not bool(valid.all()):
            system.mul_(valid[:, :, None]).mul_(valid[:, None, :]).diagonal(dim1=1, dim2=2).masked_fill_(~valid, 1)
        wanted = lost[batch].gather(1, columns) * valid
        found = torch.cholesky_solve(wanted[:, :, None], torch.linalg.cholesky(system))[:, :, 0]
        new[batch] = new[batch].scatter_add(1, columns, found * valid)
    return new


def _batches(kept: Tensor) -> Iterator[Tensor]:
    """Indices of rows whose systems are solved together, in falling order of their size."""
    order = kept.argsort(descending=True)
    start = 0
    while start < len(order):
        size = max(int(kept[order[start]]), 1)
        count = max(1, BATCH // size**2)
        yield order[start : start + count]
        start += count
