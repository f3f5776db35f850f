import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from paredown.framework.modifier.curves import (
    CURVES,
    Curve,
    ScheduledNumber,
    curve_value,
    ends_of,
    moves,
    share_of,
    value_at,
)

shares = st.floats(0, 1)
named = st.sampled_from(sorted(CURVES))


@given(named, shares, shares)
def test_ends_are_exact(name, initial, final):
    assert curve_value(name, 1, initial, final) == final
    assert curve_value(name, 0, initial, final) == (final if name == "constant" else initial)


@given(named, st.lists(st.floats(-0.5, 1.5), min_size=2, max_size=20), shares, shares)
def test_monotone_and_clamped(name, places, initial, final):
    values = [curve_value(name, place, initial, final) for place in sorted(places)]
    low, high = min(initial, final), max(initial, final)
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in values)
    steps = [later - earlier for earlier, later in pairwise(values)]
    assert all(step * (final - initial) >= -1e-12 for step in steps)


def test_formulas_at_a_point():
    i, f, p = 0.2, 0.9, 0.3
    assert curve_value("linear", p, i, f) == pytest.approx(i + (f - i) * p)
    assert curve_value("cubic", p, i, f) == pytest.approx(f + (i - f) * (1 - p) ** 3)
    assert curve_value("cosine", p, i, f) == pytest.approx(f + (i - f) * (1 + math.cos(math.pi * p)) / 2)
    left = (math.exp(-5 * p) - math.exp(-5)) / (1 - math.exp(-5))
    assert curve_value("exponential", p, i, f) == pytest.approx(f + (i - f) * left)


def test_points_are_joined_by_lines_and_level_outside():
    points = ((0.2, 0.5), (0.6, 0.8))
    assert [curve_value(points, p, 0, 1) for p in (0, 0.2, 0.4, 0.6, 1)] == pytest.approx([0.5, 0.5, 0.65, 0.8, 0.8])


@pytest.mark.parametrize("written", ["cubik", [], [[0, 0.5, 1]], [[0.5, 1], [0.2, 1]], [[2, 0.5]], 3, [["a", 1]]])
def test_what_is_no_curve(written):
    with pytest.raises(ValidationError):
        TypeAdapter(Curve).validate_python(written)


@given(st.integers(0, 1000), st.integers(1, 10**9))
def test_counts_are_exact(thousandths, total):
    share = thousandths / 1000
    assert share_of(share, total) == math.floor(Fraction(thousandths, 1000) * total + Fraction(1, 2))


class Held(BaseModel):
    value: ScheduledNumber


@pytest.mark.parametrize(
    ("said", "values", "ends", "moving"),
    [
        (0.5, [0.5, 0.5, 0.5], {0.5}, False),
        (2, [2, 2, 2], {2}, False),
        ([[0.5, 1.0], [1, 3.0]], [1.0, 1.0, 3.0], {1.0, 3.0}, True),
        ({"initial": 0, "final": 1}, [0, 0.5, 1], {0, 1}, True),
        ({"initial": 4, "final": 0, "curve": "cosine"}, [4, 2, 0], {0, 4}, True),
        ({"initial": 9, "final": 9, "curve": [[0, 0.2], [1, 0.4]]}, [0.2, 0.3, 0.4], {0.2, 0.4}, True),
    ],
)
def test_a_value_over_the_window(said, values, ends, moving):
    value = Held(value=said).value
    assert [value_at(value, progress) for progress in (0, 0.5, 1)] == pytest.approx(values)
    assert set(ends_of(value)) == ends
    assert moves(value) == moving


@pytest.mark.parametrize(
    "said", ["0.5", True, None, float("nan"), [[0, "x"]], [[2, 1]], [], {"initial": 1}, {"start": 1}]
)
def test_what_is_none(said):
    with pytest.raises(ValidationError):
        Held(value=said)
