"""random, batch-norm scale, geometric median."""

import pytest
import torch
from sample_models import conv_net, mlp, recipe_of, weights
from torch import nn

from paredown import Recipe, ScheduledManager, TargetError
from paredown.modifiers.pruning.geometric_median_pruning import distances_to_others
from paredown.modifiers.pruning.scoring.criterion import criterion_named, criterion_names

X = torch.randn(2, 1, 8, 8)


def applied(model, kind, **fields):
    ScheduledManager(Recipe.load(recipe_of(p={"type": kind, **fields}))).apply(model, example_inputs=(X,))
    return model


def test_random_depends_on_the_seed_alone():
    first, again, other = (
        [w == 0 for w in weights(applied(conv_net(), "random_pruning", final_sparsity=0.5, seed=seed))]
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_random_keeps_what_went():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    fields = {"type": "random_pruning", "final_sparsity": 0.9, "end": "5 steps", "every": "1 steps"}
    ScheduledManager(Recipe.load(recipe_of(p=fields))).modify(model, optimizer, 5)
    gone = [torch.zeros_like(w, dtype=torch.bool) for w in weights(model)]
    for _ in range(5):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        now = [w == 0 for w in weights(model)]
        assert all((after | ~before).all() for before, after in zip(gone, now, strict=True))
        gone = now


def test_batch_norm_scale_picks_the_smallest_gammas():
    model = conv_net()
    nn.init.uniform_(model.norm.weight, -1, 1)
    small = set(model.norm.weight.detach().abs().argsort()[:3].tolist())
    applied(model, "batch_norm_scale_pruning", final_sparsity=3 / 8, targets=["stem"])
    gone = (model.stem.weight == 0).flatten(1).all(1)
    assert set(gone.nonzero().flatten().tolist()) == small


def test_a_convolution_without_batch_norm_is_told():
    with pytest.raises(TargetError, match=r"cannot weigh body\.weight"):
        applied(conv_net(), "batch_norm_scale_pruning", final_sparsity=0.5)
    with pytest.raises(TargetError, match="no batch-norm"):
        applied(conv_net(), "batch_norm_scale_pruning", final_sparsity=0.5, targets=["body"])


def test_geometric_median_by_brute_force():
    model = conv_net()
    rows = [row.flatten() for row in model.body.weight.detach().double()]
    sums = torch.tensor([float(sum(torch.dist(row, other) for other in rows)) for row in rows])
    torch.testing.assert_close(
        distances_to_others(model.body.weight.detach().flatten(1)).double(), sums.double(), rtol=1e-5, atol=1e-5
    )
    applied(model, "geometric_median_pruning", final_sparsity=0.25, targets=["body"])
    gone = (model.body.weight == 0).flatten(1).all(1)
    assert set(gone.nonzero().flatten().tolist()) == set(sums.argsort()[:4].tolist())


def test_every_criterion_is_found_by_its_name():
    names = criterion_names()
    assert {
        "magnitude",
        "movement",
        "taylor",
        "fisher",
        "snip",
        "grasp",
        "synflow",
        "random",
        "batch_norm_scale",
        "geometric_median",
        "wanda",
    } <= set(names)
    assert all(criterion_named(name) is not None for name in names)
    with pytest.raises(ValueError, match="magnitude"):
        criterion_named("magnitudes")
