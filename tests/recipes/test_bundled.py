"""Every bundled recipe runs: as it is written, on a model that its targets fit, in training."""

import pytest
import torch
from sample_models import batches
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.framework.recipe.bundled import bundled_names

STEPS = 4


def wide_net():
    """Large enough for the rules that leave small layers alone."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 64, 512),
        nn.ReLU(),
        nn.Linear(512, 4),
    )


def test_there_are_some():
    assert len(list(bundled_names())) >= 4


@pytest.mark.parametrize("name", sorted(bundled_names()))
def test_it_runs(name):
    recipe = Recipe.load(name)
    assert recipe.description
    assert recipe.name == name
    model = wide_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    manager = ScheduledManager(recipe)
    manager.modify(model, optimizer, STEPS)
    data = batches(STEPS, image=True)
    for step in range(round(recipe.run_epochs * STEPS)):
        x, y = data[step % STEPS]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert manager.done
    report = manager.finalize()
    smaller = report.compressed.nonzeros < 0.9 * report.dense.nonzeros
    quantized = any(row.bits[1] < row.bits[0] for row in report.layers)
    assert smaller or quantized
    assert torch.isfinite(model.eval()(data[0][0])).all()


@pytest.mark.parametrize("name", sorted(bundled_names()))
def test_what_it_says_is_what_runs(name):
    recipe = Recipe.load(name)
    assert Recipe.load(recipe.resolved()).resolved() == recipe.resolved()
