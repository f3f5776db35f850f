"""Against torch's inverse in float64, and where there is none."""

import pytest
import torch

from paredown.framework.calibration.second_moments import damped_moments, inverse_factor, inverse_moments


def moments(samples=50, n=8):
    x = torch.randn(samples, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.T @ x / samples


@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0])
def test_a_factor_of_the_inverse_of_the_damped_matrix(damping):
    plain = moments()
    damped = plain + damping * plain.diagonal().mean() * torch.eye(8)
    assert torch.allclose(damped_moments(plain, damping), damped)
    assert torch.allclose(inverse_moments(plain, damping), torch.linalg.inv(damped))
    upper = inverse_factor(plain, damping)
    assert torch.equal(upper, upper.triu())
    assert torch.allclose(upper.T @ upper, torch.linalg.inv(damped))


def test_inputs_that_are_always_zero_get_the_mean():
    plain = moments()
    plain[2], plain[:, 2] = 0, 0
    mean = plain.diagonal().sum() / 7
    damped = damped_moments(plain, 0.1)
    assert torch.allclose(damped.diagonal()[2], mean)
    assert torch.allclose(damped.diagonal()[0], plain[0, 0] + 0.1 * mean)


def test_damping_grows_until_it_helps_and_ends_at_the_identity():
    singular = torch.ones(4, 4)
    assert torch.linalg.cholesky_ex(damped_moments(singular, 0.0)).info == 0
    assert torch.equal(damped_moments(torch.zeros(3, 3), 0.01), torch.eye(3))
    negative = torch.diag(torch.tensor([1.0, 1.0])) + 1e9 * torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert torch.equal(inverse_factor(negative, 0.01), torch.eye(2))
