import math

import pytest

from paredown.framework.errors import ArgumentError
from paredown.framework.experiments.recommend.budgets import parse_budgets, unmet
from paredown.framework.report.metrics import Metric

METRICS = (Metric("accuracy", "max"), Metric("perplexity", "min"))
DENSE = {"bytes": 1000.0, "latency": 4.0, "accuracy": 0.9, "perplexity": 40.0}


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("bytes <= 0.1x", 100),
        ("bytes<=250", 250),
        ("latency <= .5X", 2),
        ("latency <= 2.5", 2.5),
        ("accuracy >= dense", 0.9),
        ("accuracy >= dense - 0.01", 0.89),
        ("accuracy >= 0.85", 0.85),
        ("accuracy >= 0.99x", 0.891),
        ("perplexity <= dense + 1e1", 50),
        ("perplexity <= 1.1x", 44),
    ],
)
def test_bounds(text, bound):
    (budget,) = parse_budgets([text], METRICS)
    assert budget.bound(DENSE[budget.name]) == pytest.approx(bound)
    over = bound * (1.01 if budget.most else 0.99)
    assert budget.excess(bound, DENSE[budget.name]) == 0
    assert budget.excess(over, DENSE[budget.name]) > 0


def test_what_is_missed_and_by_how_much():
    budgets = parse_budgets(["bytes <= 0.1x", "accuracy >= dense - 0.01", "latency <= 0.5x"], METRICS)
    found = unmet(budgets, {"bytes": 150.0, "accuracy": 0.87}, DENSE)
    assert found.pop("bytes <= 0.1x") == pytest.approx(0.5)
    assert found.pop("accuracy >= dense - 0.01") == pytest.approx(0.02)
    assert found == {"latency <= 0.5x": math.inf}, "what was not measured is not met"
    assert not unmet(budgets, {"bytes": 100.0, "accuracy": 0.89, "latency": 2.0}, DENSE)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bytes < 3", "a budget is a name, <= or >=, and a number"),
        ("bytes <= lots", "'lots' is no amount"),
        ("byts <= 0.1x", "did you mean 'bytes'"),
        ("rouge >= 3", "there are bytes, zipped, latency, macs, parameters, accuracy, perplexity"),
        ("bytes <= 2x", "a share between 0x and 1x"),
        ("bytes <= 0x", "a share between 0x and 1x"),
        ("bytes <= -3", "a number above 0"),
        ("bytes >= 0.1x", "of bytes less is better: <="),
        ("accuracy <= 0.9", "of accuracy more is better: >="),
        ("perplexity >= 9", "of perplexity less is better: <="),
        ("accuracy >= dense -", "'dense -' is no amount"),
        ("accuracy >= dense * 2", "is no amount"),
        ("", "a budget is a name"),
        (3, "a budget is a name"),
    ],
)
def test_mistakes_name_what_is_wrong(text, told):
    with pytest.raises(ArgumentError, match="the budget") as error:
        parse_budgets([text], METRICS)
    assert told in str(error.value)


def test_no_budget_is_a_mistake():
    with pytest.raises(ArgumentError, match="at least one budget"):
        parse_budgets([], METRICS)
