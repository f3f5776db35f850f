"""Trains of matrices: exact at full rank, optimal for two cores, and dimensions that divide evenly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paredown.modifiers.decomposition.forms.tensor_train import (
    balanced_dimensions,
    matrix_of,
    tensor_train_matrix,
    tensor_train_ranks,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 3))
def test_a_train_of_a_matrix_is_exact_at_full_rank(rows, columns, cores):
    matrix = torch.randn(rows, columns, dtype=torch.float64)
    digits = balanced_dimensions(rows, cores), balanced_dimensions(columns, cores)
    found = tensor_train_matrix(matrix, *digits, 10**6)
    assert [core.shape[0] for core in found[1:]] == list(tensor_train_ranks(*digits))
    assert torch.allclose(matrix_of(found, matrix.shape), matrix, atol=1e-11)


def test_a_train_of_a_matrix_is_not_above_tensorly():
    torch.manual_seed(0)
    matrix, rows, columns = torch.randn(24, 36, dtype=torch.float64), (4, 6), (6, 6)
    mixed = matrix.reshape(*rows, *columns).permute(0, 2, 1, 3).reshape(24, 36)
    ours = (matrix_of(tensor_train_matrix(matrix, rows, columns, 5), matrix.shape) - matrix).norm()
    assert torch.allclose(ours, torch.linalg.svdvals(mixed)[5:].norm())


@pytest.mark.parametrize(("size", "cores", "digits"), [(768, 2, (24, 32)), (1024, 2, (32, 32)), (64, 3, (4, 4, 4))])
def test_dimensions_that_divide_are_found(size, cores, digits):
    assert balanced_dimensions(size, cores) == digits


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40000), st.integers(2, 4))
def test_dimensions_are_near_even_and_enough(size, cores):
    digits = balanced_dimensions(size, cores)
    product = 1
    for digit in digits:
        product *= digit
    assert size <= product
    assert size < 50 or product <= 1.2 * size
