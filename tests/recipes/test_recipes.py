"""Every bundled recipe runs: as it is written, on a model that its targets fit, in training or at once."""

import pytest
import torch
from sample_models import batches
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.framework.recipe.reading.collections import recipe_names

STEPS = 4
#: what a recipe of these names is for
POST_TRAINING = [name for name in recipe_names() if "post-training" in Recipe.load(name).resolved()["tags"]]
IN_TRAINING = [name for name in recipe_names() if name not in POST_TRAINING]


def wide_net(stride=1, hidden=512):
    """Large enough for the rules that leave small layers alone."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (8 // stride) ** 2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 4),
    )


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Language(nn.Module):
    """Tokens to logits of the next one, as language models are built."""

    def __init__(self, width=128):
        super().__init__()
        self.embedding = nn.Embedding(50, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.lm_head = nn.Linear(width, 50, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(x)


def language():
    torch.manual_seed(0)
    return Language(), [(torch.randint(0, 50, (8, 12)),) for _ in range(STEPS)]


def test_there_are_some():
    assert len(list(recipe_names())) >= 10
    assert POST_TRAINING
    assert IN_TRAINING


def check(name, report):
    smaller = report.compressed.nonzeros < 0.9 * report.dense.nonzeros
    quantized = any(row.bits[1] < row.bits[0] for row in report.layers)
    assert smaller or quantized, name


@pytest.mark.parametrize("name", sorted(IN_TRAINING))
def test_it_trains(name):
    recipe = Recipe.load(name)
    model = wide_net(stride=2, hidden=256)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    manager = ScheduledManager(recipe)
    data = batches(STEPS, image=True)
    manager.modify(model, optimizer, STEPS, example_inputs=(data[0][0],))
    for step in range(round(recipe.run_epochs * STEPS)):
        x, y = data[step % STEPS]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert manager.done
    report = manager.finalize()
    if "accuracy" not in recipe.resolved()["tags"]:
        check(name, report)
    assert torch.isfinite(model.eval()(data[0][0])).all()


@pytest.mark.parametrize("name", sorted(POST_TRAINING))
def test_it_is_applied(name):
    recipe = Recipe.load(name)
    transformer = "transformer" in recipe.resolved()["tags"]
    model, data = language() if transformer else (wide_net(), batches(STEPS, image=True))
    x = data[0][0]
    want = model.eval()(x)
    check(name, ScheduledManager(recipe).apply(model, data=data, example_inputs=(x,)))
    got = model.eval()(x)
    leaves_out = {"pruning", "decomposition"} & set(recipe.resolved()["tags"])
    assert 0 < (got - want).norm() / want.norm() < (0.6 if leaves_out else 0.15)


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_what_it_says_is_what_runs(name):
    recipe = Recipe.load(name)
    assert recipe.description
    assert recipe.name == name
    assert Recipe.load(recipe.resolved()).resolved() == recipe.resolved()
