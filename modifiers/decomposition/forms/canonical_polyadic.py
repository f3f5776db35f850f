"""Sums of rank-one terms that are near a tensor of three modes, by accelerated alternating least squares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.modifiers.decomposition.forms.factorization import wide

__all__ = ["CanonicalPolyadic", "canonical_polyadic", "full_rank"]

RIDGE = 1e-3
#: least squares sweeps at most: of a small tensor, and from LARGE entries on
SWEEPS, SWEEPS_OF_LARGE, LARGE = 200, 40, 2**18
#: the first and the largest extrapolation, as shares of the last change, and how it grows
FIRST, MOST, GROWTH = 0.5, 1.0, 1.05
TOLERANCE = 1e-4
#: after so many failures in turn to get better it ends
PATIENCE = 4

Factors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class CanonicalPolyadic:
    """The sum over r of the products of the r-th columns of output (out, rank), positions (positions, rank) and inputs
    (in, rank), in the tensor's type; the three have equal norms."""

    output: Tensor
    positions: Tensor
    inputs: Tensor


def canonical_polyadic(tensor: Tensor, rank: int, ridge: float = RIDGE) -> CanonicalPolyadic:
    """Alternating least squares with a ridge and balanced terms, which keeps them from growing against each other
    (Phan et al., 2020, arXiv:2008.05441), extrapolated between the sweeps (Ang et al., 2020, arXiv:2001.04321).

    It starts from the largest terms of the singular value decompositions at each position, which are orthogonal. From
    the full rank on these are all, and the sum is exact. Products with the two large modes are single matrix products;
    no Khatri-Rao product is formed.

    Args:
        tensor: (out, in, positions); computed in float32 at least.
        rank: of any size.
        ridge: on the normal equations, as a share of the mean of their diagonal.

    Raises:
        ArithmeticError: the equations could not be solved.
    """
    whole = wide(tensor)
    start = _largest_terms(whole, rank)
    if rank < full_rank(tensor.shape) and bool(whole.any()):
        sweeps = SWEEPS if whole.numel() < LARGE else SWEEPS_OF_LARGE
        start = _alternating_least_squares(whole, start, ridge, sweeps)
    output, positions, inputs = (part.to(tensor.dtype) for part in _balanced(start))
    return CanonicalPolyadic(output, positions, inputs)


def full_rank(shape: Sequence[int]) -> int:
    """The number of terms at which the sum is exact: min(out, in) x positions for (out, in, positions)."""
    out, inputs, positions = shape
    return min(out, inputs) * positions


def _largest_terms(tensor: Tensor, rank: int) -> Factors:
    """The largest of the singular triples at each position; all where there are fewer."""
    u, s, v = torch.linalg.svd(tensor.permute(2, 0, 1), full_matrices=False)
    largest = s.flatten().topk(min(rank, s.numel())).indices
    at, which = largest // s.shape[1], largest % s.shape[1]
    root = s[at, which] ** (1 / 3)
    positions = torch.zeros(tensor.shape[2], len(largest), dtype=tensor.dtype, device=tensor.device)
    positions[at, torch.arange(len(largest), device=tensor.device)] = root
    return u[at, :, which].mT * root, positions, v[at, which].mT * root


def _alternating_least_squares(tensor: Tensor, start: Factors, ridge: float, sweeps: int) -> Factors:
    by_inputs, by_output = tensor.permute(0, 2, 1).contiguous(), tensor.permute(1, 2, 0).contiguous()
    norm = float(tensor.norm())
    best, error, step, failures = start, math.inf, FIRST, 0
    trial = start
    for sweep in range(sweeps):
        found, found_error = _sweep(by_inputs, by_output, trial, ridge, norm)
        if not math.isfinite(found_error):
            raise ArithmeticError("its least squares gave NaN or infinity")
        if found_error > error:
            trial, step, failures = best, step / 2, failures + 1
            if failures == PATIENCE:
                break
            continue
        before, gain, failures = best, error - found_error, 0
        best, error = found, found_error
        if gain < TOLERANCE * error:
            break
        trial = best if sweep == 0 else _extrapolated(before, best, step)
        step = min(step * GROWTH, MOST)
    return best


def _sweep(by_inputs: Tensor, by_output: Tensor, factors: Factors, ridge: float, norm: float) -> tuple[Factors, float]:
    """Each factor in turn as the others want it, and the relative error then."""
    _, positions, inputs = factors
    with_inputs = by_inputs @ inputs
    output = _solved(torch.einsum("opr,pr->or", with_inputs, positions), (positions, inputs), ridge)
    positions = _solved(torch.einsum("opr,or->pr", with_inputs, output), (output, inputs), ridge)
    product = torch.einsum("ipr,pr->ir", by_output @ output, positions)
    inputs = _solved(product, (output, positions), ridge)
    squared = (_gram(output) * _gram(positions) * _gram(inputs)).sum() - 2 * (product * inputs).sum() + norm**2
    return _balanced((output, positions, inputs)), math.sqrt(max(float(squared), 0.0)) / norm


def _solved(product: Tensor, others: tuple[Tensor, Tensor], ridge: float) -> Tensor:
    """What the normal equations give for one factor, the two others being as they are."""
    gram = _gram(others[0]) * _gram(others[1])
    damped = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise ArithmeticError("its normal equations could not be solved")
    solution: Tensor = torch.cholesky_solve(product.mT, lower).mT
    return solution


def _gram(factor: Tensor) -> Tensor:
    return factor.mT @ factor


def _extrapolated(before: Factors, now: Factors, step: float) -> Factors:
    output, positions, inputs = (new + step * (new - old) for old, new in zip(before, now, strict=True))
    return output, positions, inputs


def _balanced(factors: Factors) -> Factors:
    """The same terms, each of three vectors of one norm."""
    norms = torch.stack([factor.norm(dim=0) for factor in factors])
    even = norms.prod(0) ** (1 / 3)
    scales = torch.where(norms > 0, even / torch.where(norms > 0, norms, 1), 1)
    output, positions, inputs = (factor * scale for factor, scale in zip(factors, scales, strict=True))
    return output, positions, inputs
