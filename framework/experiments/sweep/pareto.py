"""The Pareto front: what nothing else beats in both quantities."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["pareto_front"]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points that no other point beats, by rising cost.

    Args:
        points: (cost, gain). A point is beaten by one that costs no more and gains no less, and differs.

    >>> pareto_front([(3, 0.9), (1, 0.5), (2, 0.95), (1, 0.5)])
    [1, 3, 2]
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1], index)):
        last = points[front[-1]] if front else None
        if last is None or points[index][1] > last[1] or points[index] == last:
            front.append(index)
    return front
