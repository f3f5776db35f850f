from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paredown.framework.modifier.time import Time, Window


@pytest.mark.parametrize(
    ("written", "value", "unit"),
    [
        (1.5, Fraction(3, 2), "epochs"),
        (0, Fraction(0), "epochs"),
        (0.1, Fraction(1, 10), "epochs"),
        ("500 steps", Fraction(500), "steps"),
        ("1 step", Fraction(1), "steps"),
        ("2 epochs", Fraction(2), "epochs"),
        ("12.5%", Fraction(25, 2), "percent"),
    ],
)
def test_what_a_time_means(written, value, unit):
    assert Time.parse(written) == Time(value, unit)


@pytest.mark.parametrize("written", [-1, True, None, "soon", "1.5 steps", "-3 steps", "101%", float("nan"), [], "5"])
def test_what_is_no_time(written):
    with pytest.raises(ValueError):
        Time.parse(written)


@pytest.mark.parametrize("written", [3, 0.25, "500 steps", "10%", "12.5%"])
def test_plain_form_reads_back(written):
    assert Time.parse(Time.parse(written).plain()) == Time.parse(written)


def test_percent_needs_the_length_of_the_run():
    assert Time.parse("10%").in_steps(40, 30) == 120
    with pytest.raises(ValueError, match=r"run\.epochs"):
        Time.parse("10%").in_steps(40, None)


windows = st.tuples(
    st.fractions(0, 50, max_denominator=20),
    st.fractions(0, 50, max_denominator=20),
    st.fractions(1, 9, max_denominator=7),
).map(lambda t: Window(min(t[:2]), max(t[:2]), t[2]))


@given(windows)
def test_grid_has_no_drift_and_one_final_update(window):
    due = [step for step in range(60) if window.on_grid(step)]
    assert due[-1] == window.end
    points = {window.start, window.end}
    index = 0
    while window.first + index * window.every < window.last:
        points.add(-((-window.first - index * window.every) // 1))  # the step at or after the grid point
        index += 1
    assert due == sorted(point for point in points if point <= window.end)


@given(windows)
def test_progress_rises_from_zero_to_one(window):
    values = [window.progress(step) for step in range(60)]
    assert values == sorted(values)
    assert all(0 <= value <= 1 for value in values)
    assert window.progress(window.end) == 1
    assert window.end == window.start or window.progress(window.start) < 1
