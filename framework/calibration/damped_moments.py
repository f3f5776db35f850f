"""Second moments of inputs made invertible, and factors of their inverse: what compensating for errors needs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["damped_moments", "inverse_factor", "inverse_moments"]

MOST_DAMPING = 1e6


def damped_moments(moments: Tensor, damping: float) -> Tensor:
    """M + d mean(diag M) I, positive definite.

    Inputs that are always 0 get the mean moment. Where the matrix is not positive definite the damping grows tenfold.

    Args:
        moments: M, (n, n), symmetric.
        damping: d, not negative.
    """
    return _factored(moments, damping)[0]


def inverse_moments(moments: Tensor, damping: float) -> Tensor:
    """The inverse of `damped_moments`, (n, n)."""
    inverse: Tensor = torch.cholesky_inverse(_factored(moments, damping)[1])
    return inverse


def inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor U of the inverse of `damped_moments`: U^T U = (M + d mean(diag M) I)^-1."""
    upper: Tensor = torch.linalg.cholesky(inverse_moments(moments, damping), upper=True)
    return upper


def _factored(moments: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The damped matrix and its lower Cholesky factor; the identity where no damping helps."""
    diagonal = moments.diagonal()
    dead = diagonal <= 0
    mean = diagonal[~dead].mean() if bool((~dead).any()) else diagonal.new_ones(())
    while damping <= MOST_DAMPING:
        damped = moments + torch.diag(torch.where(dead, mean, damping * mean))
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return damped, lower
        damping = max(10 * damping, 1e-6)
    identity = torch.eye(len(moments)).to(moments)
    return identity, identity
