"""Wanda against a loop over rows, its criterion against hooks, and the update against torch.linalg.lstsq."""

import pytest
import torch
from correlated_inputs import correlated, damped, moments_of
from sample_models import recipe_of, training_of
from torch import nn

from paredown import Recipe, ScheduledManager, ScheduleError, TargetError
from paredown.modifiers.pruning.scoring.criterion import Watched, criterion_named
from paredown.modifiers.pruning.scoring.scores import scores_of
from paredown.modifiers.pruning.streamed.least_squares import least_squares_update
from paredown.modifiers.pruning.wanda_pruning import WandaPruning, wanda_scores


def apply(model, data, **fields):
    recipe = Recipe.load(recipe_of(1, p={"type": "wanda_pruning", **fields}))
    ScheduledManager(recipe).apply(model, data=data)
    return model


def smallest_of_rows(score, counts):
    gone = torch.zeros_like(score, dtype=torch.bool)
    for row, count, mark in zip(score, counts, gone, strict=True):
        mark[row.argsort(stable=True)[:count]] = True
    return gone


def test_rows_give_up_what_carries_least_and_the_rest_is_left():
    x = correlated(200, 10)
    layer = nn.Linear(10, 5).double()
    weight = layer.weight.detach().clone()
    apply(layer, [(x[:120],), (x[120:],)], final_sparsity=0.33)
    gone = smallest_of_rows(weight.abs() * x.norm(dim=0), [3, 4, 3, 4, 3])
    assert int(gone.sum()) == 17
    assert torch.equal(layer.weight, weight.masked_fill(gone, 0))


def test_each_layer_sees_what_the_pruned_ones_before_it_give():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8)).double()
    first, last = (layer.weight.detach().clone() for layer in (model[0], model[2]))
    x = correlated(200, 12)
    apply(model, [(x,)], final_sparsity=0.5)
    assert torch.equal(model[0].weight == 0, smallest_of_rows(first.abs() * x.norm(dim=0), [6] * 16))
    hidden = torch.relu(model[0](x)).detach()
    assert torch.equal(model[2].weight == 0, smallest_of_rows(last.abs() * hidden.norm(dim=0), [8] * 8))


@pytest.mark.parametrize("damping", [1e-9, 0.01])
def test_the_update_is_least_squares(damping):
    x = correlated(300, 14)
    weight, moments = torch.randn(9, 14, dtype=torch.float64), moments_of(x)
    pruned = torch.rand(9, 14) < torch.linspace(0, 1.2, 9)[:, None]
    got = least_squares_update(weight, pruned, damped(moments, damping)[None])
    ridge = (damping * moments.diagonal().mean()).sqrt() * torch.eye(14)
    inputs = torch.cat([x / len(x) ** 0.5, ridge])
    for row, gone, new in zip(weight, pruned, got, strict=True):
        solved = torch.linalg.lstsq(inputs[:, ~gone], (inputs @ row)[:, None]).solution[:, 0]
        assert torch.allclose(new[~gone], solved, atol=1e-7)
        assert not new[gone].any()


def test_updated_weights_of_a_model_and_of_groups(monkeypatch):
    monkeypatch.setattr("paredown.modifiers.pruning.streamed.least_squares.BATCH", 100)
    torch.manual_seed(0)
    data = [(torch.randn(8, 4, 9, 9).cumsum(2),) for _ in range(3)]
    ends = []
    for update in (False, True):
        torch.manual_seed(1)
        layer = nn.Conv2d(4, 6, 3, groups=2)
        want = layer(data[0][0])
        apply(layer, data, final_sparsity=0.6, update_weights=update)
        assert int((layer.weight == 0).sum()) == 65
        ends.append((layer.weight == 0, (layer(data[0][0]) - want).norm().item()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[1][1] < 0.8 * ends[0][1]


class Mixed(nn.Module):
    """A stem, a normalisation, and one layer that is called with two inputs."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.twice = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)

    def forward(self, x):
        return self.twice(self.twice(self.norm(self.stem(x)).mean((2, 3))))


def test_the_criterion_is_the_score_of_the_model_as_it_is():
    model = Mixed().eval()
    batches = [(torch.randn(6, 2, 5, 5),), (torch.randn(3, 2, 5, 5),)]
    training = training_of(WandaPruning(final_sparsity=0.5), model, batches)
    criterion = criterion_named("wanda")
    assert criterion.needs == "data"
    scores = scores_of(criterion, training, dict(model.named_parameters()), Watched())
    assert list(scores) == ["stem.weight", "twice.weight"]
    with torch.no_grad():
        inputs = torch.cat([x for (x,) in batches])
        hidden = model.norm(model.stem(inputs)).mean((2, 3))
        both = torch.cat([hidden, model.twice(hidden)])
        patches = nn.functional.unfold(inputs, 3).transpose(0, 1).flatten(1)
    squares = both.square().mean(0)
    assert torch.allclose(scores["twice.weight"], model.twice.weight.abs() * squares.sqrt(), atol=1e-6)
    norms = patches.square().mean(1).sqrt().view(1, 2, 3, 3)
    assert torch.allclose(scores["stem.weight"], model.stem.weight.abs() * norms, atol=1e-6)


def test_the_criterion_refuses_nan_and_wants_data():
    model = Mixed()
    training = training_of(WandaPruning(final_sparsity=0.5).named("it"), model)
    weights = dict(model.named_parameters())
    with pytest.raises(
        ScheduleError, match=r"it \(wanda_pruning\) needs batches to calibrate on: modify\(..., data=loader\)"
    ):
        scores_of(criterion_named("wanda"), training, weights, Watched())
    model.twice.weight.data[0, 0] = torch.nan
    with pytest.raises(TargetError, match="the weight of twice contains NaN or infinity: it has no score"):
        scores_of(criterion_named("wanda"), training, weights, Watched())


def test_scores_of_groups():
    moments = torch.rand(2, 3) + 1
    weight = torch.randn(4, 3)
    want = torch.cat([weight[:2].abs() * moments[0].sqrt(), weight[2:].abs() * moments[1].sqrt()])
    assert torch.equal(wanda_scores(weight, moments), want)
