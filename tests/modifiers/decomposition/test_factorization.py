"""Factors against the Eckart-Young bound, and convolutions against convolutions."""

import pytest
import torch
import torch.nn.functional as F

from paredown.modifiers.decomposition.factorization import (
    channel_factors,
    channel_matrix,
    rank_for_energy,
    rank_for_ratio,
    spatial_factors,
    spatial_matrix,
    truncated_svd_factors,
)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (1, 9), (12, 12)])
@pytest.mark.parametrize("rank", [1, 4, 1000])
def test_the_error_is_the_optimum(shape, rank):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, right = truncated_svd_factors(matrix, rank)
    kept = min(rank, *shape)
    assert (left.shape, right.shape) == ((shape[0], kept), (kept, shape[1]))
    bound = torch.linalg.eigvalsh(matrix @ matrix.T).clamp(min=0).flip(0)[kept:].sum().sqrt()
    assert torch.allclose((matrix - left @ right).norm(), bound, atol=1e-6)
    if kept == min(shape):
        assert torch.allclose(left @ right, matrix, atol=1e-12)


def test_factors_are_balanced_and_their_signs_decided():
    matrix = torch.randn(15, 10, dtype=torch.float64)
    left, right = truncated_svd_factors(matrix, 5)
    assert torch.allclose(left.norm(dim=0), right.norm(dim=1), atol=1e-12)
    assert (left.gather(0, left.abs().argmax(0, keepdim=True)) > 0).all()
    again = truncated_svd_factors(matrix.clone(), 5)
    assert torch.equal(left, again[0])
    assert torch.equal(right, again[1])


def test_the_signs_are_decided_for_a_matrix_of_zeros_too():
    left, right = truncated_svd_factors(torch.zeros(4, 3), 2)
    assert torch.equal(left @ right, torch.zeros(4, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_is_kept(dtype):
    matrix = torch.randn(8, 6).to(dtype)
    left, right = truncated_svd_factors(matrix, 6)
    assert left.dtype == right.dtype == dtype
    tolerance = 10 * torch.finfo(dtype).eps
    assert torch.allclose(left.double() @ right.double(), matrix.double(), atol=tolerance)


def test_rank_for_energy_is_the_smallest_that_suffices():
    matrix = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5]))
    energies = matrix.diag().square().cumsum(0) / matrix.square().sum()
    for rank, energy in enumerate(energies.tolist(), start=1):
        assert rank_for_energy(matrix, energy - 1e-6) == rank
    assert rank_for_energy(matrix, 1.0) == 4
    assert rank_for_energy(torch.zeros(3, 3), 0.9) == 1


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (10, 1000), (3, 2), (1, 5)])
@pytest.mark.parametrize("ratio", [1.0, 2.0, 3.7, 1e6])
def test_rank_for_ratio_is_the_largest_that_fits(rows, columns, ratio):
    rank = rank_for_ratio(rows, columns, ratio)
    assert 1 <= rank <= min(rows, columns)
    assert rank == 1 or rank * (rows + columns) <= rows * columns / ratio
    assert (rank + 1) * (rows + columns) > rows * columns / ratio or rank == min(rows, columns)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (5, 7, 1, 3), (4, 3, 5, 2), (8, 8, 1, 1)])
@pytest.mark.parametrize("form", ["spatial", "channel"])
def test_convolutions_of_full_rank_compute_the_same(shape, form):
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    x = torch.randn(2, shape[1], 9, 8, dtype=torch.float64)
    matrix, kernels = (spatial_matrix, spatial_factors) if form == "spatial" else (channel_matrix, channel_factors)
    one, two = kernels(*truncated_svd_factors(matrix(weight), 10**6), shape)
    assert torch.allclose(F.conv2d(F.conv2d(x, one), two), F.conv2d(x, weight), atol=1e-12)
    if form == "spatial":
        assert one.shape[2:] == (shape[2], 1)
        assert two.shape[2:] == (1, shape[3])
