"""Recorded numbers beside those of a new run."""

import math

import pytest

from paredown.framework.errors import ParedownError
from paredown.framework.report.proof import check_recorded, compared


def entry(*accuracies, size=100):
    return {"dense": {"accuracies": [0.9], "bytes": 200}, "compressed": {"accuracies": accuracies, "bytes": size}}


def holds(recorded, found):
    return [one.holds for one in compared(recorded, found) if one.name.startswith("compressed")]


def test_an_accuracy_may_move_by_two_deviations_of_the_narrower_seeds():
    assert holds(entry(0.80, 0.82), entry(0.82, 0.84)) == [True, True]
    assert holds(entry(0.80, 0.82), entry(0.845, 0.85)) == [False, True]
    assert holds(entry(0.10, 0.90), entry(0.80, 0.82)) == [False, True]
    assert holds(entry(0.800), entry(0.8019)) == [True, True]
    assert holds(entry(0.800), entry(0.8021)) == [False, True]


def test_bytes_may_move_by_one_percent():
    assert holds(entry(0.8, size=1000), entry(0.8, size=1010)) == [True, True]
    assert holds(entry(0.8, size=1000), entry(0.8, size=1011)) == [True, False]


def test_a_run_that_diverged_does_not_hold():
    assert holds(entry(0.8, 0.81), entry(0.8, math.nan)) == [False, True]
    assert holds(entry(0.8, math.nan), entry(0.8, math.nan)) == [False, True]


@pytest.mark.parametrize(
    ("recorded", "place"),
    [
        ({"dense": 3}, "dense is 3"),
        ({"compressed": {"bytes": "x"}}, "compressed.bytes"),
        ({"run": {"seeds": "a"}}, "seeds"),
    ],
)
def test_what_is_no_number_is_named(recorded, place):
    with pytest.raises(ParedownError, match=place):
        check_recorded(recorded)


def test_a_metric_may_move_by_a_share_of_itself():
    old = {"compressed": {"metrics": {"perplexity": [50.0]}}}
    for now, expected in ((50.09, True), (50.2, False), (math.nan, False)):
        new = {"dense": {}, "compressed": {"metrics": {"perplexity": [now]}}}
        assert [(one.name, one.holds) for one in compared(old, new)] == [("compressed perplexity", expected)]


def test_a_metric_that_is_no_longer_measured_does_not_hold():
    old, new = {"compressed": {"metrics": {"f1": [0.5]}}}, {"dense": {}, "compressed": {"accuracies": [0.5]}}
    assert [one.holds for one in compared(old, new)] == [False]
