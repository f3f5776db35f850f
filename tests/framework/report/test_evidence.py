"""Entries of `results`: numbers of a report, in a recipe's text."""

import math

from paredown import Recipe
from paredown.framework.recipe.tree.writing import to_yaml
from paredown.framework.report import Report, Summary
from paredown.framework.report.evidence import evidence, repeatable, with_evidence
from paredown.framework.report.metrics import Metric

TEXT = to_yaml({"recipe": 1, "name": "none", "modifiers": {}})


def report(*accuracies):
    dense, compressed = (
        Summary(10, 10, 400, values={"accuracy": (0.9,)}),
        Summary(10, 2, 100, values={"accuracy": accuracies}),
    )
    return repeatable(Report("none", dense, compressed, versions={"python": "3.10"}), "jobs:task", range(2), False)


def test_an_entry_holds_the_numbers_and_what_runs_them_again():
    entry = evidence(report(0.8, 0.123456789), "digits")
    assert entry == {
        "task": "digits",
        "dense": {"accuracies": [0.9], "bytes": 400},
        "compressed": {"accuracies": [0.8, 0.1234568], "bytes": 100},
        "size_ratio": 0.25,
        "versions": {"python": "3.10"},
        "run": {"task": "jobs:task", "seeds": [0, 1], "apply": False},
    }


def test_the_same_entry_is_written_once(tmp_path):
    once = with_evidence(TEXT, report(0.8), "digits")
    assert with_evidence(once, report(0.8), "digits") == once
    (tmp_path / "r.yaml").write_text(with_evidence(once, report(0.7), "digits"))
    results = Recipe.load(tmp_path / "r.yaml").results
    assert [entry["compressed"]["accuracies"] for entry in results] == [[0.8], [0.7]]
    assert results[0]["versions"] == {"python": "3.10"}


def test_a_seed_that_diverged_is_recorded_as_nan(tmp_path):
    (tmp_path / "r.yaml").write_text(with_evidence(TEXT, report(0.8, math.nan), "digits"))
    first, second = Recipe.load(tmp_path / "r.yaml").results[0]["compressed"]["accuracies"]
    assert first == 0.8
    assert math.isnan(second)


def test_other_metrics_are_recorded_by_name_with_their_direction():
    perplexity = Metric("perplexity", "min")
    summary = Summary(10, 10, 400, values={"perplexity": (44.912345678,)})
    entry = evidence(Report("none", summary, summary, metrics=(perplexity,)), "words")
    assert entry["metrics"] == {"perplexity": {"goal": "min", "scale": 1.0}}
    assert entry["dense"] == {"metrics": {"perplexity": [44.912346]}, "bytes": 400}
