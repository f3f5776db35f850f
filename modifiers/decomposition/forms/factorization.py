"""Low-rank factors of matrices: the best ones for the weights, and the best ones for what a layer gives out."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["balanced_factors", "rank_for_energy", "response_factors", "truncated_svd_factors", "wide"]

#: from this ratio of the sides on, eigenvectors of the small Gram matrix are faster than a singular value decomposition
LONG = 3


def truncated_svd_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Balanced factors of the best approximation of a rank: left = U sqrt(S), right = sqrt(S) V^T.

    A long or flat matrix is projected onto the eigenvectors of its Gram matrix, in float64.

    Args:
        matrix: (..., rows, columns); computed in float32 at least.
        rank: clamped to the full rank.

    Returns:
        (..., rows, rank) and (..., rank, columns) in the matrix's type; the largest entry of each left column is
        positive.
    """
    rows, columns = matrix.shape[-2:]
    rank = min(rank, rows, columns)
    if columns > LONG * rows:
        right, left = _by_gram(matrix.mT, rank)
        return _signed(left.mT, right.mT, matrix.dtype)
    if rows > LONG * columns:
        return _signed(*_by_gram(matrix, rank), matrix.dtype)
    u, s, v = torch.linalg.svd(wide(matrix), full_matrices=False)
    root = s[..., :rank].sqrt()
    return _signed(u[..., :rank] * root[..., None, :], v[..., :rank, :] * root[..., None], matrix.dtype)


def response_factors(matrix: Tensor, moments: Tensor, rank: int, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Balanced factors that keep as much as possible of what the layer gives out (Zhang et al., 2015,
    arXiv:1505.06798, section 3.1, without the mean).

    Of all matrices of the rank U U^T W has the least mean squared error of the responses y = W x, where U are the first
    eigenvectors of their second moments W E[x x^T] W^T. Whitening the inputs (SVD-LLM, Wang et al., 2024,
    arXiv:2403.07378) leads to the same matrix; here nothing is inverted.

    Args:
        matrix: W, (..., rows, columns).
        moments: E[y y^T], (..., rows, rows).
        rank: clamped to the number of rows.
        ridge: how much responses of inputs count that are all alike, as a share of the true ones: it decides where
            there are fewer responses than rows.

    Returns:
        As `truncated_svd_factors`.
    """
    weight = matrix.double()
    alike = weight @ weight.mT
    true, weights = _trace(moments.double()), _trace(alike)
    share = torch.where(true > 0, ridge * true / torch.where(weights > 0, weights, 1), 1)
    basis = _leading(moments.double() + share[..., None, None] * alike, min(rank, matrix.shape[-2]))
    left, right = balanced_factors(basis, basis.mT @ weight)
    return _signed(left, right, matrix.dtype)


def balanced_factors(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, its singular values shared evenly: what trains well (a lopsided pair diverges).

    Args:
        left, right: (..., rows, rank) and (..., rank, columns).
    """
    tall, small = torch.linalg.qr(left)
    long, short = torch.linalg.qr(right.mT)
    u, s, v = torch.linalg.svd(small @ short.mT, full_matrices=False)
    root = s.sqrt()
    return tall @ (u * root[..., None, :]), (v * root[..., None]) @ long.mT


def rank_for_energy(matrix: Tensor, energy: float) -> int:
    """The smallest rank that keeps this share of the squared singular values; of several matrices, of all together."""
    weight = matrix.double()
    short = weight @ weight.mT if matrix.shape[-2] <= matrix.shape[-1] else weight.mT @ weight
    values = torch.linalg.eigvalsh(short).clamp_min(0).flip(-1).reshape(-1, short.shape[-1])
    kept = values.sum(0).cumsum(0)
    return min(len(kept), 1 + int((kept < energy * kept[-1] * (1 - 1e-12)).sum()))


def wide(tensor: Tensor) -> Tensor:
    """The tensor in a type that torch.linalg computes in: float64, or else float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _by_gram(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Balanced factors of a matrix with more rows than columns."""
    parts = (rows.double() for rows in torch.split(matrix, _chunk(matrix), dim=-2))
    gram = functools.reduce(torch.Tensor.add_, (part.mT @ part for part in parts))
    basis = _leading(gram, rank).to(wide(matrix).dtype)
    left = wide(matrix) @ basis
    values = left.norm(dim=-2, keepdim=True)
    root = values.sqrt()
    return left / torch.where(root > 0, root, 1), (root * basis).mT


def _chunk(matrix: Tensor) -> int:
    """Rows that take 32 MB in float64."""
    return max(1, 2**22 // matrix.shape[-1])


def _leading(symmetric: Tensor, rank: int) -> Tensor:
    """The eigenvectors of the largest eigenvalues, (..., n, rank)."""
    vectors: Tensor = torch.linalg.eigh(symmetric)[1].flip(-1)[..., :rank]
    return vectors


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _signed(left: Tensor, right: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factors whose left columns have a positive largest entry."""
    sign = left.gather(-2, left.abs().argmax(-2, keepdim=True)).sign()
    sign = torch.where(sign == 0, 1, sign)
    return (left * sign).to(dtype), (right * sign.mT).to(dtype)
