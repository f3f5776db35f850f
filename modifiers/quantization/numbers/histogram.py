"""A histogram that grows by powers of two, and the ranges that observers read off it.

It covers [-width, width) in equal bins. Where a value lies beyond, the width doubles and pairs of bins merge, so the
counts are exact and do not depend on the order or the size of the batches; those of several processes add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from paredown.framework.distributed.processes import extremes_of_all, sum_of_all
from paredown.modifiers.quantization.numbers.fake_quantize import clip_limits, rounded
from paredown.modifiers.quantization.numbers.scales import SHRINKING, affine_parameters
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["BINS", "SOLVERS", "count_", "entropy_range", "least_squares_range", "percentile_range"]

BINS = 8192
Solver = Callable[[Tensor, Tensor, ActivationScheme], tuple[Tensor, Tensor]]


def count_(counts: Tensor, width: Tensor, x: Tensor, largest: Tensor) -> None:
    """Count the values of ``x`` in place.

    Args:
        counts: (BINS,), int64.
        width: 0-d; a power of two, or 0 before the first value.
        x: any shape, not empty.
        largest: 0-d, the largest magnitude that the histogram has to hold.
    """
    wanted = torch.maximum(width, _width_for(torch.nan_to_num(largest, 0.0, 0.0, 0.0)))
    counts.copy_(_widened(counts, torch.where(width > 0, wanted / width, 1.0)))
    width.copy_(wanted)
    places = torch.nan_to_num_(x.detach().float().flatten() * (BINS / 2 / width), 0.0)
    places = places.floor_().clamp_(-BINS // 2, BINS // 2 - 1)
    places = places.long() + BINS // 2
    if torch.compiler.is_compiling():
        counts.index_add_(0, places, torch.ones_like(places))
    else:
        counts.add_(torch.bincount(places, minlength=BINS))


def percentile_range(counts: Tensor, width: Tensor, scheme: ActivationScheme) -> tuple[Tensor, Tensor]:
    """The ends between which ``percentile`` percent of the values lie, cut off evenly at both; for a symmetric scheme
    the magnitude below which they lie. To the resolution of a bin, which is taken whole."""
    counts, width = _of_all(counts, width)
    step, share = width * 2 / BINS, scheme.percentile / 100
    if scheme.symmetric:
        magnitudes = counts.view(2, -1)[0].flip(0) + counts.view(2, -1)[1]
        high = (_first_reaching(magnitudes, share) + 1) * step
        return high.neg(), high
    outside = (1 - share) / 2
    top = (_first_reaching(counts, 1 - outside) + 1 - BINS // 2) * step
    bottom = (BINS // 2 - 1 - _first_reaching(counts.flip(0), 1 - outside)) * step
    return bottom, top


def least_squares_range(counts: Tensor, width: Tensor, scheme: ActivationScheme) -> tuple[Tensor, Tensor]:
    """The shrunken extremes whose grid leaves the least squared error, counted at the bins' centres."""
    counts, width = _of_all(counts, width)
    low, high = _occupied(counts, width)
    centres, weights = _centres(width, counts), counts.double()
    candidates = [(low * left, high * right) for left, right in _shrinkings(low, high, scheme)]
    errors = [(_on_grid(centres, *ends, scheme).sub_(centres).square_().mul_(weights)).sum() for ends in candidates]
    return candidates[int(torch.stack(errors).argmin())]


def entropy_range(counts: Tensor, width: Tensor, scheme: ActivationScheme) -> tuple[Tensor, Tensor]:
    """The range whose quantized distribution diverges least (Kullback-Leibler) from the clipped one, as in TensorRT's
    calibration (Migacz, 2017): outliers count at the last bin of the reference; each level spreads its mass evenly over
    the bins of it that hold something. The bin of 0 is left out: 0 is on every grid, and where most values are 0 (after
    a rectifier) the spread of its level alone would decide, in favour of the narrowest range. What few samples add to a
    divergence is taken off: (held bins - 1) / 2N for each level."""
    counts, width = _of_all(counts, width)
    low, high = _occupied(counts, width)
    centres, weights = _centres(width, counts), counts.double()
    weights[BINS // 2] = 0
    candidates = [(low * left, high * right) for left, right in _shrinkings(low, high, scheme)]
    losses = [_divergence(centres, weights, *ends, scheme) for ends in candidates]
    return candidates[int(torch.stack(losses).argmin())]


SOLVERS: Mapping[str, Solver] = {
    "percentile": percentile_range,
    "histogram": entropy_range,
    "mse": least_squares_range,
}


def _width_for(largest: Tensor) -> Tensor:
    """The least power of two above a magnitude."""
    return torch.exp2(torch.frexp(largest.float().clamp(min=2.0**-100))[1].float())


def _widened(counts: Tensor, factor: Tensor) -> Tensor:
    places = torch.arange(BINS, device=counts.device) - BINS // 2
    places = torch.div(places, factor.clamp(max=BINS).long(), rounding_mode="floor") + BINS // 2
    return torch.zeros_like(counts).index_add_(0, places, counts)


def _of_all(counts: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The histogram of all processes."""
    widest = extremes_of_all(width, width)[1]
    return sum_of_all(_widened(counts, torch.where(width > 0, widest / width, 1.0))), widest


def _first_reaching(counts: Tensor, share: float) -> Tensor:
    """The first bin up to which at least ``share`` of the values are counted."""
    summed = counts.cumsum(0).double()
    return torch.searchsorted(summed, (summed[-1] * share).reshape(1)).clamp(max=len(counts) - 1)[0]


def _centres(width: Tensor, counts: Tensor) -> Tensor:
    places = torch.arange(BINS, device=counts.device, dtype=torch.float64)
    return (places + 0.5 - BINS // 2) * (width.double() * 2 / BINS)


def _occupied(counts: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The outer ends of the outermost bins that hold something, as far as they lie on their side of 0."""
    held = counts.nonzero().flatten()
    step = width.double() * 2 / BINS
    low, high = (held[0] - BINS // 2) * step, (held[-1] + 1 - BINS // 2) * step
    return low.clamp(max=0), high.clamp(min=0)


def _shrinkings(low: Tensor, high: Tensor, scheme: ActivationScheme) -> list[tuple[float, float]]:
    """Pairs of shares of both ends to try: together, and for an affine range around 0 either end alone too."""
    both = [(share, share) for share in SHRINKING]
    if scheme.symmetric or not (float(low) < 0 < float(high)):
        return both
    return both + [(1.0, share) for share in SHRINKING] + [(share, 1.0) for share in SHRINKING]


def _on_grid(values: Tensor, low: Tensor, high: Tensor, scheme: ActivationScheme) -> Tensor:
    scale, zero_point = affine_parameters(low, high, scheme)
    return rounded(values.clamp(*clip_limits(scale, zero_point, scheme)), scale, scheme, stochastic=False, clip=False)


def _divergence(centres: Tensor, weights: Tensor, low: Tensor, high: Tensor, scheme: ActivationScheme) -> Tensor:
    scale, zero_point = affine_parameters(low, high, scheme)
    bottom, top = clip_limits(scale, zero_point, scheme)
    inside = (centres >= bottom) & (centres <= top)
    held = inside & (weights > 0)
    reference = torch.where(inside, weights, 0.0)
    edges = inside.nonzero().flatten()
    if not len(edges):
        return weights.new_full((), torch.inf)
    reference[edges[0]] += weights[centres < bottom].sum()
    reference[edges[-1]] += weights[centres > top].sum()
    level = (centres / scale).round().long()
    level = level - level.min()
    mass = torch.zeros(int(level.max()) + 1, dtype=weights.dtype, device=weights.device)
    mass.index_add_(0, level[held], weights[held])
    bins = torch.zeros_like(mass).index_add_(0, level[held], torch.ones_like(weights[held]))
    spread = torch.where(held, (mass / bins.clamp(min=1))[level], 0.0)
    p, q = reference / reference.sum(), spread / spread.sum().clamp(min=1)
    present = p > 0
    divergence = (p[present] * (p[present].log() - q[present].clamp(min=1e-12).log())).sum()
    noise = (bins - 1).clamp(min=0).sum() / (2 * reference.sum())  # the expected divergence of counts of a flat density
    return divergence - noise
