import pytest
import torch
from sample_models import conv_net, mlp, pruning, recipe_of, size, weights, zeros
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.framework.modifier.curves import share_of


def applied(model, **fields):
    ScheduledManager(Recipe.load(recipe_of(prune=pruning(**fields)))).apply(model)
    return model


def test_global_takes_the_smallest_of_all():
    model = mlp()
    before = torch.cat([w.flatten() for w in weights(model)])
    applied(model, final=0.37)
    after = torch.cat([w.flatten() for w in weights(model)])
    smallest = before.abs().argsort(stable=True)[: share_of(0.37, len(before))]
    want = before.clone()
    want[smallest] = 0
    assert torch.equal(after, want)


def test_local_takes_the_same_share_of_each():
    model = applied(mlp(), final=0.37, scope="local")
    assert [int((w == 0).sum()) for w in weights(model)] == [share_of(0.37, w.numel()) for w in weights(model)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths(dtype):
    model = applied(conv_net().to(dtype), final=0.5)
    assert zeros(model) == share_of(0.5, size(model))


def test_ties_go_by_index():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    for layer in model:
        nn.init.constant_(layer.weight, -0.5)
    applied(model, final=0.25)
    assert model[0].weight.flatten()[:32].eq(0).all()
    assert model[0].weight.flatten()[32:].ne(0).all()
    assert model[1].weight.ne(0).all()


def test_a_shared_weight_counts_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    applied(model, final=0.5)
    assert int((model[0].weight == 0).sum()) == 32


def test_ignored_layers_stay():
    model = applied(conv_net(), final=0.9, ignore=["head"])
    assert model.head.weight.ne(0).all()
    assert zeros(model) == share_of(0.9, size(model) - model.head.weight.numel())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_ends_of_the_range(share):
    assert zeros(applied(mlp(), final=share)) == share * size(mlp())


def test_the_plan_lists_what_has_no_effect():
    manager = ScheduledManager(Recipe.load(recipe_of(prune=pruning(curve="constant", initial_sparsity=0.2))))
    plan = manager.plan(mlp(), steps_per_epoch=10)
    assert "initial_sparsity is set but has no effect" in str(plan)
    assert plan.parameters == (sum(p.numel() for p in mlp().parameters()),) * 2
    assert plan.bits[1] < 0.2 * plan.bits[0]
