"""Ranks that were planted, and the closed forms against a numerical search for the lowest free energy."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from paredown.modifiers.decomposition.forms.variational_bayes import (
    free_energy,
    noise_variance,
    rank_by_variational_bayes,
    threshold,
)


def planted(rows, columns, rank, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return randn(rows, rank) @ randn(rank, columns) + noise * randn(rows, columns)


@pytest.mark.parametrize("shape", [(40, 40), (64, 256), (256, 64), (30, 900), (120, 100)])
@pytest.mark.parametrize("rank", [0, 1, 4, 10])
@pytest.mark.parametrize("noise", [0.01, 0.3, 1.0])
def test_a_planted_rank_is_found(shape, rank, noise):
    for seed in range(3):
        assert rank_by_variational_bayes(planted(*shape, rank, noise, seed)) == rank


@pytest.mark.parametrize("shape", [(40, 40), (64, 256), (300, 100)])
def test_the_variance_of_the_noise_is_found(shape):
    squares = torch.linalg.svdvals(planted(*shape, 4, 0.3)).square()
    assert noise_variance(squares, max(shape)) == pytest.approx(0.09, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (20, 200), (50, 20)])
def test_noise_alone_has_no_component(shape):
    assert not any(rank_by_variational_bayes(planted(*shape, 0, 1.0, seed)) for seed in range(20))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 40)])
def test_zeros_have_no_component(shape):
    assert rank_by_variational_bayes(torch.zeros(shape)) == 0


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_noise_the_rank_is_that_of_the_matrix(shape, rank, dtype):
    assert rank_by_variational_bayes(planted(*shape, rank, 0.0).to(dtype)) == rank


@settings(max_examples=40, deadline=None)
@given(
    *(st.integers(2, 40), st.integers(2, 40), st.integers(0, 5), st.floats(-6, 6), st.integers(0, 100)),
)
def test_neither_transposing_nor_scaling_matters(rows, columns, rank, power, seed):
    matrix = planted(rows, columns, rank, 0.5, seed)
    found = rank_by_variational_bayes(matrix)
    assert rank_by_variational_bayes(matrix.T) == found
    assert rank_by_variational_bayes(matrix * 10**power) == found
    assert found < min(rows, columns)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_type_does_not_matter(dtype):
    assert rank_by_variational_bayes(planted(60, 80, 5, 0.5).to(dtype)) == 5


def lowest_free_energy_of_a_component(x, alpha):
    """By numerical search over means and variances of both factors; priors at their optimum.

    Twice the terms of one component in the free energy of a matrix of alpha by 1 with noise of the variance 1 and a
    singular value of sqrt(x), where the numbers of rows and columns are scaled by that of the columns.
    """

    def energy(values):
        a, b, log_of_a, log_of_b = values
        of_a, of_b = math.exp(log_of_a), math.exp(log_of_b)
        second_a, second_b = a * a + of_a, b * b + alpha * of_b
        priors = math.log(second_a / of_a) + alpha * math.log(second_b / (alpha * of_b))
        return priors - 2 * a * b * math.sqrt(x) + second_a * second_b

    starts = ([scale, scale, log, log] for scale in (0.3, 1.0, 3.0) for log in (-6.0, -2.0, 0.0))
    options = {"maxiter": 4000, "maxfev": 4000, "xatol": 1e-9, "fatol": 1e-12}
    return min(minimize(energy, start, method="Nelder-Mead", options=options).fun for start in starts)


@pytest.mark.parametrize("alpha", [1.0, 0.4, 0.05])
@pytest.mark.parametrize("share", [0.7, 0.97, 1.03, 1.5, 6.0])
def test_the_free_energy_and_the_threshold_are_those_of_a_search(alpha, share):
    x = share * threshold(alpha)
    rows, columns = round(20 * alpha), 20
    squares = torch.tensor([x * columns] + [0.0] * (rows - 1), dtype=torch.float64)
    ours = float(free_energy(squares, columns, torch.ones(1, dtype=torch.float64))) - x
    theirs = lowest_free_energy_of_a_component(x, alpha)
    assert ours <= 1e-12
    assert min(0.0, theirs) == pytest.approx(ours, abs=1e-5)
    assert (theirs < -1e-6) == (share > 1)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1, 0.01])
def test_the_threshold_is_near_the_approximation_of_the_paper(alpha):
    tau = 2.5129 * math.sqrt(alpha)
    assert threshold(alpha) == pytest.approx((1 + tau) * (1 + alpha / tau), rel=0.03)
    assert threshold(1.0) == pytest.approx(3.5129 * (1 + 1 / 2.5129), rel=1e-5)


@pytest.mark.parametrize("shape", [(12, 12), (20, 50), (7, 300)])
@pytest.mark.parametrize(("rank", "noise"), [(0, 1.0), (2, 0.3), (3, 1.5)])
def test_the_variance_is_where_the_free_energy_is_lowest(shape, rank, noise):
    squares = torch.linalg.svdvals(planted(*shape, rank, noise)).square()
    largest = squares.mean().log() - math.log(shape[1])
    everywhere = torch.linspace(float(largest) - 12, float(largest) + 1, 200_000, dtype=torch.float64).exp()
    energies = torch.cat([free_energy(squares, shape[1], part) for part in everywhere.split(20_000)])
    found = noise_variance(squares, shape[1])
    assert found == pytest.approx(float(everywhere[energies.argmin()]), rel=1e-3)
    assert free_energy(squares, shape[1], torch.tensor([found], dtype=torch.float64)) <= energies.min() + 1e-9
