"""A folder with a task, `job:task`, with a recipe, and with tasks that are wrong."""

import sys

import pytest

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
def folder(tmp_path, monkeypatch):
    (tmp_path / "job.py").write_text(TASK)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("job", None)
