"""`paredown plan`, `run` and `report` on a user's own task."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paredown import Recipe

TASK = """
import torch
from torch import nn
from paredown import Task

def batches(seed):
    g = torch.Generator().manual_seed(seed)
    return [(x := torch.randn(16, 6, generator=g), (x.sum(1) > 0).long()) for _ in range(8)]

def task():
    def accuracy(model):
        model.eval()
        return sum((model(x).argmax(-1) == y).float().mean().item() for x, y in batches(1)) / 8

    return Task(
        name="signs of sums",
        build_model=lambda: nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)),
        train_loader=batches(0),
        evaluate=accuracy,
        loss=nn.functional.cross_entropy,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), 1e-2),
        example_inputs=(batches(0)[0][0],),
        dense_epochs=3,
    )

def nothing():
    return 3

def with_evaluate(evaluate):
    import dataclasses
    return dataclasses.replace(task(), dense_epochs=1, evaluate=evaluate)

def wordy():
    return with_evaluate(lambda model: "well")

def as_a_tensor():
    return with_evaluate(lambda model: torch.tensor(float("nan")) if sum((p == 0).sum() for p in model.parameters()) else torch.tensor(0.5))
"""
RECIPE = """
recipe: 1
name: small
run: {epochs: 4}
modifiers:
  prune: {type: magnitude_pruning, start: 1, end: 3, every: 0.5, final_sparsity: 0.8}
  quantize: {type: quantization_aware_training, start: 3}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "job.py").write_text(TASK)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def paredown(folder, *arguments):
    exe = Path(sys.executable).with_name("paredown")
    return subprocess.run([exe, *arguments], cwd=folder, capture_output=True, text=True)


def test_run_writes_everything_and_report_reads_it(folder):
    ran = paredown(folder, "run", "recipe.yaml", "--task", "job:task", "--seeds", "2", "--output", "out", "--record")
    assert ran.returncode == 0, ran.stderr
    assert "Plan of small" in ran.stdout
    assert "accuracy (2 seeds)" in ran.stdout
    assert {p.name for p in (folder / "out").iterdir()} >= {
        "report.html",
        "report.json",
        "recipe.yaml",
        "checkpoint.pt",
    }
    data = json.loads((folder / "out" / "report.json").read_text())
    weights = 6 * 32 + 32 * 2
    assert data["compressed"]["nonzeros"] <= data["dense"]["nonzeros"] - round(0.8 * weights)
    assert len(data["compressed"]["accuracies"]) == 2
    assert min(data["compressed"]["accuracies"]) > 0.7
    kept = Recipe.load(folder / "out" / "recipe.yaml")
    assert kept.results[0]["compressed"]["accuracies"] == data["compressed"]["accuracies"]
    assert set(torch.load(folder / "out" / "checkpoint.pt", weights_only=True)) >= {"model", "manager"}
    page = (folder / "out" / "report.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")

    told = paredown(folder, "report", "out")
    assert told.returncode == 0
    assert "accuracy (2 seeds)" in told.stdout
    assert paredown(folder, "report", "out/report.json", "--output", "page.html").returncode == 0
    assert (folder / "page.html").read_text() == page


def test_overrides_one_shot_and_json(folder):
    ran = paredown(
        folder, "run", "recipe.yaml", "modifiers.prune.final_sparsity=0.5", "--task", "job:task", "--apply", "--json"
    )
    assert ran.returncode == 0, ran.stderr
    data = json.loads(ran.stdout)
    assert data["dense"]["nonzeros"] - data["compressed"]["nonzeros"] == 128
    assert torch.load(folder / "runs" / "latest" / "checkpoint.pt", weights_only=True)["optimizers"] == []


def test_an_accuracy_may_be_a_tensor_and_no_number(folder):
    ran = paredown(folder, "run", "recipe.yaml", "--task", "job:as_a_tensor", "--output", "out")
    assert ran.returncode == 0, ran.stderr
    told = json.loads((folder / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert (told["dense"]["accuracies"], told["compressed"]["accuracies"]) == ([0.5], [None])
    assert "nan" in paredown(folder, "report", "out").stdout


def test_plan(folder):
    told = paredown(folder, "plan", "recipe.yaml", "--task", "job:task")
    assert told.returncode == 0, told.stderr
    assert "prune (magnitude_pruning): from 1 epochs to 3 epochs, steps 8 to 24" in told.stdout
    data = json.loads(paredown(folder, "plan", "recipe.yaml", "--task", "job:task", "--json").stdout)
    assert [m["name"] for m in data["modifiers"]] == ["prune", "quantize"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["run", "recipe.yaml", "--task", "job:nowhere"], 2, "nowhere"),
        (["run", "recipe.yaml", "--task", "jobb:task"], 2, "jobb"),
        (["run", "recipe.yaml", "--task", "job"], 2, "module:function"),
        (["run", "recipe.yaml", "--task", "job:nothing"], 2, "returned a int"),
        (["run", "gone.yaml", "--task", "job:task"], 2, "no such file"),
        (["run", "recipe.yaml"], 2, "--task"),
        (["run", "recipe.yaml", "modifiers.prune.final=0.5", "--task", "job:task"], 1, "final_sparsity"),
        (["plan", "recipe.yaml", "modifiers.prune.targets=[Conv2d]", "--task", "job:task"], 1, "nothing to act on"),
        (["run", "recipe.yaml", "--task", "job:wordy"], 1, "evaluate returned 'well'; the accuracy is a number"),
        (["report", "nowhere"], 2, "nowhere"),
        (["report", "recipe.yaml"], 1, "no report"),
        (["report", "."], 2, "report.json"),
    ],
)
def test_mistakes_are_messages_with_an_exit_code(folder, arguments, code, told):
    ran = paredown(folder, *arguments)
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
