"""Metrics by name, unit and direction."""

import math

import pytest

from paredown import ParedownError
from paredown.framework.report.metrics import ACCURACY, UNNAMED, Metric, declared, measure, named


@pytest.mark.parametrize(
    ("metric", "before", "after", "difference"),
    [
        (ACCURACY, 0.935, 0.925, "-1.00 points"),
        (ACCURACY, 93.5, 92.5, "-1"),
        (Metric("accuracy", "max", "%"), 93.5, 92.5, "-1.00 points"),
        (Metric("error", "min", "%", 100), 0.065, 0.075, "+1.00 points, worse"),
        (Metric("perplexity", "min"), 44.9, 58.8, "+13.9, worse"),
        (Metric("loss", "min"), 0.5, 0.4, "-0.1, better"),
        (Metric("loss"), 0.5, 0.4, "-0.1"),
        (Metric("psnr", "max", "dB"), 30.0, 31.5, "+1.5 dB"),
    ],
)
def test_a_difference_has_the_metrics_unit_and_direction(metric, before, after, difference):
    assert metric.difference([before], [after]) == difference


def test_what_is_shown():
    assert Metric("accuracy", "max", "%", 100).shown([0.935]) == "93.5 %"
    assert Metric("perplexity", "min").shown([44.0, 46.0]) == "45 ± 1.4142"
    assert Metric("loss", "min").shown([math.nan]) == "nan"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        "accuracy",
        {"accuracy": "more"},
        {"top-1": "max"},
        {"bytes": "min"},
        {"accuracy": {"unit": "%"}},
        {"accuracy": {"goal": "max", "color": "red"}},
        {"accuracy": {"goal": "max", "scale": 0}},
    ],
)
def test_what_is_no_declaration_is_refused(wrong):
    with pytest.raises(ParedownError, match="metrics"):
        declared(wrong)


@pytest.mark.parametrize("wrong", [0.93, None, "f1"])
def test_an_evaluation_is_a_function(wrong):
    with pytest.raises(ParedownError, match="evaluate is .* a function of a model is wanted"):
        measure(wrong, None)


@pytest.mark.parametrize("wrong", [None, "good", {}, {"f1": None}, [0.9, 0.8]])
def test_an_evaluation_gives_numbers(wrong):
    with pytest.raises(ParedownError, match="evaluate returned .*a number is wanted"):
        measure(lambda model: wrong, None)


def test_a_number_without_a_name_is_the_accuracy_where_all_are_shares():
    assert named((), [{UNNAMED: 0.9}, {UNNAMED: 0.8}]) == ((ACCURACY,), [{"accuracy": 0.9}, {"accuracy": 0.8}])
    assert named((), [{UNNAMED: 0.9}, {UNNAMED: 1.8}])[0] == (Metric(UNNAMED),)
    perplexity = Metric("perplexity", "min")
    assert named((perplexity,), [{UNNAMED: 3.0}]) == ((perplexity,), [{"perplexity": 3.0}])


def test_what_is_not_declared_comes_after_what_is():
    metrics, _ = named((Metric("f1", "max"),), [{"recall": 0.5, "f1": 0.4}])
    assert metrics == (Metric("f1", "max"), Metric("recall"))
