"""Factors against the Eckart-Young bound, and against the least error of a layer's output."""

import pytest
import torch

from paredown.modifiers.decomposition.forms.factorization import (
    balanced_factors,
    rank_for_energy,
    response_factors,
    truncated_svd_factors,
)

SHAPES = [(20, 30), (30, 20), (1, 9), (12, 12), (90, 7), (7, 90), (3, 12, 5), (2, 5, 40)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4, 1000])
def test_the_error_is_the_optimum(shape, rank):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, right = truncated_svd_factors(matrix, rank)
    kept = min(rank, *shape[-2:])
    assert (left.shape, right.shape) == ((*shape[:-1], kept), (*shape[:-2], kept, shape[-1]))
    values = torch.linalg.svdvals(matrix).square()
    bound = values[..., kept:].sum(-1).sqrt()
    assert torch.allclose((matrix - left @ right).norm(dim=(-2, -1)), bound, atol=1e-9)
    if kept == min(shape[-2:]):
        assert torch.allclose(left @ right, matrix, atol=1e-12)


@pytest.mark.parametrize("shape", [(15, 10), (70, 10), (10, 70)])
def test_factors_are_balanced_and_their_signs_decided(shape):
    matrix = torch.randn(shape, dtype=torch.float64)
    left, right = truncated_svd_factors(matrix, 5)
    assert torch.allclose(left.norm(dim=0), right.norm(dim=1), atol=1e-9)
    assert (left.gather(0, left.abs().argmax(0, keepdim=True)) > 0).all()
    again = truncated_svd_factors(matrix.clone(), 5)
    assert torch.equal(left, again[0])
    assert torch.equal(right, again[1])


@pytest.mark.parametrize("shape", [(4, 3), (40, 3), (3, 40)])
def test_a_matrix_of_zeros_gives_zeros(shape):
    left, right = truncated_svd_factors(torch.zeros(shape), 2)
    assert torch.equal(left @ right, torch.zeros(shape))


def test_a_long_matrix_of_low_rank_is_given_back():
    torch.manual_seed(0)
    matrix = torch.randn(400, 3) @ torch.randn(3, 20)
    left, right = truncated_svd_factors(matrix, 6)
    assert torch.isfinite(left).all()
    assert torch.allclose(left @ right, matrix, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8, 6), (40, 6), (6, 40)])
def test_the_type_is_kept(dtype, shape):
    matrix = torch.randn(shape).to(dtype)
    left, right = truncated_svd_factors(matrix, 6)
    assert left.dtype == right.dtype == dtype
    tolerance = 10 * torch.finfo(dtype).eps
    assert torch.allclose(left.double() @ right.double(), matrix.double(), atol=tolerance)


def test_balancing_keeps_the_product():
    torch.manual_seed(0)
    left, right = torch.randn(2, 9, 4, dtype=torch.float64) * 1e3, torch.randn(2, 4, 7, dtype=torch.float64) * 1e-3
    one, two = balanced_factors(left, right)
    assert torch.allclose(one @ two, left @ right, atol=1e-12)
    assert torch.allclose(one.norm(dim=1), two.norm(dim=2), atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_response_factors_have_the_least_error_of_the_output(rank):
    """Against whitening: the SVD of W M^(1/2), times M^(-1/2)."""
    torch.manual_seed(0)
    weight = torch.randn(6, 10, dtype=torch.float64)
    x = torch.randn(500, 10, dtype=torch.float64) @ torch.randn(10, 10, dtype=torch.float64)
    moments = x.T @ x / len(x)
    left, right = response_factors(weight, weight @ moments @ weight.T, rank, ridge=0)
    root = torch.linalg.cholesky(moments)
    u, s, v = torch.linalg.svd(weight @ root, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ v[:rank] @ torch.linalg.inv(root)
    assert torch.allclose(left @ right, best, atol=1e-8)
    assert torch.allclose(left.norm(dim=0), right.norm(dim=1), atol=1e-9)


def test_response_factors_fall_back_on_the_weight_without_responses():
    torch.manual_seed(0)
    weight = torch.randn(6, 10, dtype=torch.float64)
    left, right = response_factors(weight, torch.zeros(6, 6), 3)
    assert torch.isfinite(left @ right).all()
    few = torch.randn(1, 10, dtype=torch.float64)
    response = few @ weight.T
    left, right = response_factors(weight, response.T @ response, 3)
    values = torch.linalg.svdvals(weight)
    error = (weight - left @ right).norm()
    assert torch.allclose(few @ (left @ right).T, response, atol=1e-2)
    assert error < 1.5 * values[3:].norm()


def test_rank_for_energy_is_the_smallest_that_suffices():
    matrix = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5]))
    energies = matrix.diag().square().cumsum(0) / matrix.square().sum()
    for rank, energy in enumerate(energies.tolist(), start=1):
        assert rank_for_energy(matrix, energy - 1e-6) == rank
    assert rank_for_energy(matrix, 1.0) == 4
    assert rank_for_energy(torch.zeros(3, 3), 0.9) == 1
