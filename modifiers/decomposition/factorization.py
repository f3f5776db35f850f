"""Low-rank factors of matrices, and the matrix forms of convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "channel_factors",
    "channel_matrix",
    "rank_for_energy",
    "rank_for_ratio",
    "spatial_factors",
    "spatial_matrix",
    "truncated_svd_factors",
]


def truncated_svd_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Balanced factors of the best approximation of a rank: left = U sqrt(S), right = sqrt(S) V^T.

    Args:
        matrix: (rows, columns); computed in float32 at least.
        rank: clamped to the full rank.

    Returns:
        (rows, rank) and (rank, columns) in the matrix's type; the largest entry of each left column is positive.
    """
    wide = matrix if matrix.dtype == torch.float64 else matrix.float()
    u, s, v = torch.linalg.svd(wide, full_matrices=False)
    rank = min(rank, len(s))
    u, s, v = u[:, :rank], s[:rank], v[:rank]
    sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    root = s.sqrt()
    return (u * sign * root).to(matrix.dtype), (v * sign.T * root[:, None]).to(matrix.dtype)


def rank_for_ratio(rows: int, columns: int, ratio: float) -> int:
    """The largest rank, 1 at least, whose factors have at most rows x columns / ratio entries."""
    return max(1, min(rows, columns, math.floor(rows * columns / ratio / (rows + columns))))


def rank_for_energy(matrix: Tensor, energy: float) -> int:
    """The smallest rank that keeps this share of the squared singular values."""
    wide = matrix.double()
    kept = torch.linalg.svdvals(wide).square().cumsum(0)
    return min(len(kept), 1 + int((kept < energy * kept[-1] * (1 - 1e-12)).sum()))


def channel_matrix(weight: Tensor) -> Tensor:
    """(out, in, height, width) as (out, in x height x width)."""
    return weight.flatten(1)


def spatial_matrix(weight: Tensor) -> Tensor:
    """(out, in, height, width) as (in x height, width x out)."""
    out, inputs, height, width = weight.shape
    return weight.permute(1, 2, 3, 0).reshape(inputs * height, width * out)


def channel_factors(left: Tensor, right: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The kernels (rank, in, height, width) and (out, rank, 1, 1) from the factors of `channel_matrix`."""
    out, inputs, height, width = shape
    return right.reshape(-1, inputs, height, width), left.reshape(out, -1, 1, 1)


def spatial_factors(left: Tensor, right: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The kernels (rank, in, height, 1) and (out, rank, 1, width) from the factors of `spatial_matrix`."""
    out, inputs, height, width = shape
    first = left.reshape(inputs, height, -1).permute(2, 0, 1).unsqueeze(-1)
    second = right.reshape(-1, width, out).permute(2, 0, 1).unsqueeze(2)
    return first, second
