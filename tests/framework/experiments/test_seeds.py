"""Running a recipe under seeds: batches of any kind, metrics with directions, refusals before the training."""

import dataclasses

import pytest
import tiny_task

from paredown import ParedownError, Recipe
from paredown.framework.experiments.seeds import run_seeds


def test_batches_may_be_mappings_and_metrics_have_directions(recipe, tmp_path):
    report = run_seeds(tiny_task.named_arguments(), recipe, [0], tmp_path, lambda seed: lambda *step: None)
    assert [metric.name for metric in report.metrics] == ["perplexity", "error"]
    assert 1 < report.compressed.metrics["perplexity"] < 2
    rows = {row[0]: row for row in report.rows()}
    assert rows["error (one seed)"][1].endswith(" %")
    assert rows["error (one seed)"][3].partition(" ")[2].startswith("points")
    assert {"perplexity", "error, %"} <= {curve.quantity for curve in report.history}


@pytest.mark.parametrize(
    ("modifier", "evaluate", "message"),
    [
        ({"type": "knowledge_distillation"}, None, "cannot work without training"),
        ({"type": "magnitude_pruning", "final_sparsity": 0.5, "targets": ["nothing"]}, None, "matches nothing"),
        ({"type": "magnitude_pruning", "final_sparsity": 0.5}, lambda model: None, "evaluate returned 'None'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(modifier, evaluate, message, tmp_path):
    task = tiny_task.task()
    task = dataclasses.replace(task, loss=pytest.fail, evaluate=evaluate or task.evaluate)
    wrong = Recipe.load({"recipe": 1, "run": {"epochs": 1}, "modifiers": {"one": modifier}})
    with pytest.raises(ParedownError, match=message):
        run_seeds(task, wrong, [0], tmp_path, lambda seed: lambda *step: None, one_shot=True)
