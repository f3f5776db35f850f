"""How many components of a matrix stand out of its noise, by variational Bayes.

The global solution, in closed form, of fully observed matrix factorization whose priors and noise variance are
estimated from the matrix too (Nakajima, Sugiyama, Babacan & Tomioka, 2013, JMLR 14, "Global analytic solution of
fully-observed variational Bayesian matrix factorization").

A matrix of L x M, L <= M, with the singular values g and noise of the variance s has components x = g^2 / (M s). One is
kept where x exceeds a threshold of alpha = L / M alone; then the free energy is lower with it than without it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["free_energy", "noise_variance", "rank_by_variational_bayes", "threshold"]

#: the minimum is searched on so many points between two bounds, then so many times between the neighbours of the best
POINTS, REFINEMENTS = 500, 4


def rank_by_variational_bayes(matrix: Tensor) -> int:
    """The number of components that the solution keeps: those that stand out of noise alike in all entries.

    Args:
        matrix: (rows, columns); computed in float64.

    Returns:
        From 0 to less than the smaller side.
    """
    short = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().mT
    squares = torch.linalg.eigvalsh(short @ short.mT).clamp_min(0).flip(0).cpu()
    if not squares.any():
        return 0
    rows, columns = short.shape
    limit = threshold(rows / columns) * columns * noise_variance(squares, columns)
    return int((squares > limit).sum())


def noise_variance(squares: Tensor, columns: int) -> float:
    """The variance of the noise at which the free energy is lowest, within the bounds that the paper gives.

    Args:
        squares: all squared singular values, float64, falling; not all zero.
        columns: the larger side of the matrix.
    """
    rows = len(squares)
    alpha = rows / columns
    most = math.ceil(rows / (1 + alpha)) - 1
    rounding = torch.finfo(torch.float64).eps * rows * float(squares[0])
    least = max(float(squares[most]) / threshold(alpha), float(squares[most:].mean()), rounding)
    low, high = math.log(least / columns), math.log(max(least, float(squares.mean())) / columns)
    for _ in range(1 + REFINEMENTS):
        points = torch.linspace(low, high, POINTS, dtype=torch.float64)
        best = int(free_energy(squares, columns, points.exp()).argmin())
        low, high = float(points[max(best - 1, 0)]), float(points[min(best + 1, POINTS - 1)])
    return math.exp(float(points[best]))


def free_energy(squares: Tensor, columns: int, variances: Tensor) -> Tensor:
    """Twice the free energy divided by the columns, but for a constant, at each of the variances of the noise.

    Args:
        squares: all squared singular values.
        columns: the larger side of the matrix.
        variances: (n), positive.

    Returns:
        (n).
    """
    alpha = len(squares) / columns
    x = squares / (columns * variances[:, None])
    tau = _tau(x.clamp_min(threshold(alpha)), alpha)
    gained = torch.log1p(tau) + alpha * torch.log1p(tau / alpha) - tau
    return x.sum(1) + len(squares) * variances.log() + torch.where(x > threshold(alpha), gained, 0).sum(1)


def threshold(alpha: float) -> float:
    """The x from which on a component is kept, for a ratio alpha of the sides, at most 1."""
    low, high = 0.0, 3.0
    for _ in range(100):
        middle = (low + high) / 2
        gains = math.log1p(middle) + alpha * math.log1p(middle / alpha) > middle
        low, high = (middle, high) if gains else (low, middle)
    return (1 + high) * (1 + alpha / high)


def _tau(x: Tensor, alpha: float) -> Tensor:
    """The larger solution of x = (1 + tau) (1 + alpha / tau)."""
    middle = x - (1 + alpha)
    return (middle + (middle.square() - 4 * alpha).clamp_min(0).sqrt()) / 2
