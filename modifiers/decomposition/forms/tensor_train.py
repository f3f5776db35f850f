"""Tensor trains (Oseledets, 2011): of kernels, and of matrices whose rows and columns are numbered by several digits.

Own TT-SVD and not tensorly's, which computes all singular vectors, has no groups, and changes a backend that all
threads share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from paredown.modifiers.decomposition.forms.factorization import truncated_svd_factors, wide
from paredown.modifiers.decomposition.forms.tucker import tucker2

__all__ = ["balanced_dimensions", "matrix_of", "tensor_train_kernel", "tensor_train_matrix", "tensor_train_ranks"]

#: dimensions that multiply out to the size itself are taken where the largest is at most so many times the smallest
BALANCED = 2
#: matrices larger than this, of which less than a share is kept, are first projected
LARGE, SHARE = 1024, 1 / 8
EXTRA_DIRECTIONS, POWERS = 8, 6


def tensor_train_kernel(tensor: Tensor, ranks: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The train inputs, positions, outputs of a kernel, by TT-SVD.

    Its cores are those of Tucker-2; TT-SVD, which fits each to the ones before, is what Tucker-2 starts from.

    Args:
        tensor: (groups, out, in, positions).
        ranks: between positions and outputs, and between inputs and positions; clamped.

    Returns:
        As `tucker2`.
    """
    return tucker2(tensor, ranks, sweeps=0)


def tensor_train_matrix(matrix: Tensor, rows: Sequence[int], columns: Sequence[int], rank: int) -> list[Tensor]:
    """The TT-matrix of a matrix (Novikov et al., 2015, arXiv:1509.06569), by TT-SVD.

    Args:
        matrix: (M, N); zeros are added up to the products of the dimensions.
        rows, columns: dimensions, as many of one as of the other.
        rank: clamped, at every bond, to the full one.

    Returns:
        Cores (r_before, rows[k], columns[k], r_after) in the matrix's type, whose Frobenius norms are equal.
    """
    sizes = (math.prod(rows) - matrix.shape[0], math.prod(columns) - matrix.shape[1])
    rest = torch.nn.functional.pad(wide(matrix), (0, sizes[1], 0, sizes[0])).reshape(*rows, *columns)
    count = len(rows)
    rest = rest.permute([axis for k in range(count) for axis in (k, count + k)])
    cores, before = [], rest.new_ones(1)
    for k in range(count - 1):
        left, right = _split(rest.reshape(len(before) * rows[k] * columns[k], -1), rank)
        root = left.norm(dim=0)
        root = torch.where(root > 0, root, 1)
        core = left * root ** (2 * (k + 1) / count - 1)
        cores.append(core.reshape(len(before), rows[k], columns[k], -1) / before[:, None, None, None])
        rest, before = right * root[:, None], root ** (2 * (k + 1) / count)
    cores.append(rest.reshape(-1, rows[-1], columns[-1], 1) / before[:, None, None, None])
    return [core.to(matrix.dtype) for core in _equalized(cores)]


def matrix_of(cores: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """The matrix of a TT-matrix, without what was added to the shape."""
    whole = cores[0].new_ones(1, 1, 1)
    for core in cores:
        whole = torch.einsum("abr,rmns->ambns", whole, core).flatten(2, 3).flatten(0, 1)
    return whole[: shape[0], : shape[1], 0]


def tensor_train_ranks(rows: Sequence[int], columns: Sequence[int]) -> tuple[int, ...]:
    """The ranks at which a TT-matrix is exact, one for each bond."""
    sizes = [row * column for row, column in zip(rows, columns, strict=True)]
    return tuple(min(math.prod(sizes[:bond]), math.prod(sizes[bond:])) for bond in range(1, len(sizes)))


def balanced_dimensions(size: int, cores: int) -> tuple[int, ...]:
    """Dimensions of much the same size, smallest first, that multiply out to a size or to a little more.

    >>> balanced_dimensions(768, 2), balanced_dimensions(30522, 2)
    ((24, 32), (165, 185))
    """

    def preference(dimensions: tuple[int, ...]) -> tuple[bool, int, int]:
        product = math.prod(dimensions)
        exact = product == size and dimensions[-1] <= BALANCED * dimensions[0]
        return not exact, sum(dimensions), product

    smallest = max(1, int(size ** (1 / cores) / BALANCED))
    return min(_dimensions(size, cores, smallest), key=preference)


def _dimensions(size: int, cores: int, smallest: int) -> Iterator[tuple[int, ...]]:
    """All that do not fall, and whose last is the smallest that will do."""
    if cores == 1:
        yield (max(size, smallest),)
        return
    for first in range(smallest, size + 1):
        if first > smallest and first**cores > size:
            return
        for others in _dimensions(-(-size // first), cores - 1, first):
            yield first, *others


def _split(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Balanced factors; of a large matrix from what the leading directions of its rows hold."""
    if min(matrix.shape) <= LARGE or rank >= SHARE * min(matrix.shape):
        return truncated_svd_factors(matrix, rank)
    basis = _krylov_basis(matrix, rank + EXTRA_DIRECTIONS)
    left, right = truncated_svd_factors(basis.mT @ matrix, rank)
    return basis @ left, right


def _krylov_basis(matrix: Tensor, block: int) -> Tensor:
    """Orthonormal columns that span what leads in a matrix (Musco & Musco, 2015, arXiv:1504.05477)."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], block, generator=generator).to(matrix)
    blocks = [torch.linalg.qr(matrix @ start)[0]]
    while len(blocks) < POWERS and (len(blocks) + 1) * block <= min(matrix.shape):
        blocks.append(torch.linalg.qr(matrix @ (matrix.mT @ blocks[-1]))[0])
    basis: Tensor = torch.linalg.qr(torch.cat(blocks, 1))[0]
    return basis


def _equalized(cores: Sequence[Tensor]) -> list[Tensor]:
    """The same product, of cores with equal norms."""
    norms = torch.stack([core.norm() for core in cores])
    if not norms.all():
        return list(cores)
    scales = norms.log().mean().exp() / norms
    return [core * scale for core, scale in zip(cores, scales, strict=True)]
