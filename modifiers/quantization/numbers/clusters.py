"""Few values for many numbers: one-dimensional k-means, and the same among the numbers of a grid.

On a line the clusters of an optimum are intervals, so that dynamic programming finds it (Wang & Song, 2011, The R
Journal 3(2), Ckmeans.1d.dp): the least error of the first j numbers in m clusters is the least, over where the last
cluster begins, of that of the numbers before it in m - 1 clusters, and of the last cluster's own. Up to 1024 different
numbers it is exact; more are brought into as many intervals first, and what is found is then improved on the numbers
themselves (Lloyd, 1982), of which a histogram of 65536 bins stands for more than that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["chosen_levels", "nearest_place", "shared_values"]

#: different numbers on which the dynamic program runs, at least and at most, and for each cluster
LEAST, MOST, FOR_EACH = 512, 1024, 16
#: numbers that are kept apart
BINS = 1 << 16
ROUNDS = 200


def shared_values(values: Tensor, clusters: int, importance: Tensor | None = None) -> Tensor:
    """The values, at most so many, that leave the least sum of ``importance x (value - nearest)^2``.

    Args:
        values: numbers in any shape, at least one.
        clusters: at least 1.
        importance: not negative, in the shape of the values. Default: all the same.

    Returns:
        In rising order: float64, on the CPU. Where there are no more different numbers than clusters, these.
    """
    points = _Points.of(values, importance)
    if len(points) <= clusters:
        return points.means()
    most = max(min(FOR_EACH * clusters, MOST), LEAST, 2 * clusters)
    coarse = points if len(points) <= MOST else points.merged(points.even_edges(most))
    centers = coarse.means_between(_best_edges(coarse, min(clusters, len(coarse))))
    return centers if coarse is points else _improved(points, centers)


def chosen_levels(values: Tensor, levels: Tensor, count: int, importance: Tensor | None = None) -> Tensor:
    """Of the levels those, at most ``count``, with the least sum of ``importance x (value - nearest chosen)^2``: exact.

    Args:
        values: numbers in any shape, at least one.
        levels: what may be chosen, in rising order.
        importance: not negative, in the shape of the values. Default: all the same.

    Returns:
        In rising order: float64, on the CPU.
    """
    points, levels = _Points.of(values, importance), levels.detach().cpu().double()
    if len(levels) <= count:
        return levels
    # how many points each pair of levels has between the left one and its middle; the middle's are the right one's
    at = torch.searchsorted(points.means(), levels)
    middle = torch.searchsorted(points.means(), (levels[:, None] + levels) / 2)
    own = torch.arange(len(levels))
    left = points.error(at[:, None], middle, levels[:, None])
    right = points.error(middle, at[None, :], levels[None, :])
    between = torch.where(own[:, None] < own, left + right, torch.inf)
    below = points.error(torch.zeros_like(at), at, levels)
    above = points.error(at, torch.full_like(at, len(points)), levels)
    best, backwards = below, []
    for _ in range(count - 1):
        best, origin = (best[:, None] + between).min(0)
        backwards.append(origin)
    place = int((best + above).argmin())
    chosen = [place]
    for origin in reversed(backwards):
        place = int(origin[place])
        chosen.append(place)
    return levels[chosen[::-1]]


def nearest_place(values: Tensor, among: Tensor) -> Tensor:
    """For each value the place of the nearest of some numbers in rising order; int64, in the values' shape."""
    middles = (among[1:] + among[:-1]) / 2
    return torch.bucketize(values.detach(), middles.to(values.device, values.dtype))


@dataclass(frozen=True)
class _Points:
    """Numbers in rising order with weights: running sums of 1, x and x^2, each with a 0 before it: (points + 1,)."""

    mass: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, values: Tensor, importance: Tensor | None) -> _Points:
        x = values.detach().reshape(-1).cpu().double()
        mass = torch.ones_like(x) if importance is None else importance.detach().reshape(-1).cpu().double()
        if importance is not None and not bool(mass.sum() > 0):
            mass = torch.ones_like(x)
        low, high = x.aminmax()
        if len(x) > BINS and bool(high > low):
            place, size = ((x - low) * (BINS / (high - low))).long().clamp_(max=BINS - 1), BINS
        else:
            different, place = torch.unique(x, return_inverse=True)
            size = len(different)
        parts = (torch.bincount(place, weights=mass * power, minlength=size) for power in (1, x, x * x))
        mass, first, second = parts
        kept = mass > 0
        return cls(*(_running(part[kept]) for part in (mass, first, second)))

    def __len__(self) -> int:
        return len(self.mass) - 1

    def means(self) -> Tensor:
        """Of each point."""
        return self.first.diff() / self.mass.diff()

    def merged(self, edges: Tensor) -> _Points:
        """Those between two edges as one."""
        return _Points(self.mass[edges], self.first[edges], self.second[edges])

    def even_edges(self, count: int) -> Tensor:
        """Edges of about so many intervals, half of them even in mass, half in length."""
        means = self.means()
        along = (means - means[0]) / (means[-1] - means[0]) + self.mass[1:] / self.mass[-1]
        inner = torch.searchsorted(along, torch.linspace(0, 2, count + 1, dtype=torch.float64)[1:-1])
        ends = torch.tensor([0, len(self)])
        return _different(torch.cat([ends, inner]).clamp(0, len(self)))

    def means_between(self, edges: Tensor) -> Tensor:
        return self.merged(edges).means()

    def error(self, begin: Tensor, end: Tensor, value: Tensor) -> Tensor:
        """The sum of mass x (x - value)^2 of the points from ``begin`` up to ``end``."""
        mass, first, second = (part[end] - part[begin] for part in (self.mass, self.first, self.second))
        return second - 2 * value * first + value * value * mass


def _different(numbers: Tensor) -> Tensor:
    found: Tensor = torch.unique(numbers)
    return found


def _running(part: Tensor) -> Tensor:
    return torch.cat([part.new_zeros(1), part.cumsum(0)])


def _best_edges(points: _Points, clusters: int) -> Tensor:
    """Where the clusters of the least error begin and end, (clusters + 1,)."""
    size = len(points)
    mass, first, second = (part[None, 1:] - part[:-1, None] for part in (points.mass, points.first, points.second))
    inside = torch.ones(size, size, dtype=torch.bool).triu_()
    own = torch.where(inside, second - first * first / torch.where(inside, mass, 1), torch.inf)
    best, begins = own[0], []
    for _ in range(clusters - 1):
        before = torch.cat([best.new_full((1,), torch.inf), best[:-1]])
        best, begin = (before[:, None] + own).min(0)
        begins.append(begin)
    edges = [size]
    for begin in reversed(begins):
        edges.append(int(begin[edges[-1] - 1]))
    return torch.tensor([0, *edges[::-1]])


def _improved(points: _Points, centers: Tensor) -> Tensor:
    """Lloyd's steps until nothing changes."""
    means, before = points.means(), None
    for _ in range(ROUNDS):
        inner = torch.searchsorted(means, (centers[1:] + centers[:-1]) / 2)
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(points))])
        if before is not None and torch.equal(edges, before):
            break
        before, part = edges, points.merged(edges)
        mass = part.mass.diff()
        centers = torch.where(mass > 0, part.first.diff() / mass.clamp(min=torch.finfo(mass.dtype).tiny), centers)
    return _different(centers)
