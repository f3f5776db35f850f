"""The Pareto front, against its definition."""

import random

import pytest

from paredown.framework.experiments.sweep.pareto import pareto_front


def beaten(one, other):
    return other[0] <= one[0] and other[1] >= one[1] and other != one


@pytest.mark.parametrize("seed", range(200))
def test_as_its_definition_says(seed):
    draw = random.Random(seed)
    points = [(draw.randint(0, 9), draw.randint(0, 9) / 10) for _ in range(draw.randint(0, 25))]
    wanted = {i for i, point in enumerate(points) if not any(beaten(point, other) for other in points)}
    front = pareto_front(points)
    assert set(front) == wanted
    assert len(front) == len(wanted)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
