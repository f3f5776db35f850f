"""What the methods promise that prune a trained model at once: counts, patterns, types, and what is left alone."""

import copy

import pytest
import torch
from correlated_inputs import correlated
from sample_models import batches, conv_net, mlp, recipe_of, train
from torch import nn

import paredown
from paredown import Recipe, RecipeError, ScheduledManager, ScheduleError, TargetError
from paredown.framework.modifier.curves import share_of
from paredown.modifiers.pruning.streamed.base import StreamedPruning

KINDS = ("sparsegpt", "wanda_pruning", "optimal_brain_compression")


@pytest.fixture(params=[*KINDS, "wanda_pruning updated", "sparsegpt updated"])
def fields(request):
    kind, *updated = request.param.split()
    return {"type": kind, "update_weights": True} if updated else {"type": kind}


def manager_of(fields, **more):
    return ScheduledManager(Recipe.load(recipe_of(3, p={**fields, **more})))


def apply(fields, model, data, **more):
    manager_of(fields, **more).apply(model, data=data)
    return model


def image_net(groups=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=groups), nn.ReLU(), nn.Flatten(), nn.Linear(192, 5)
    )


def images(dtype=torch.float32):
    torch.manual_seed(0)
    return [(torch.randn(6, 1, 8, 8).cumsum(2).to(dtype),) for _ in range(3)]


def layers_of(model):
    return [module for module in model.modules() if isinstance(module, StreamedPruning.kinds)]


@pytest.mark.parametrize("share", [0.0, 0.37, 0.5, 1.0])
@pytest.mark.parametrize("groups", [1, 4])
def test_exact_counts_in_each_layer(fields, share, groups):
    model = apply(fields, image_net(groups), images(), final_sparsity=share)
    for layer in layers_of(model):
        assert int((layer.weight == 0).sum()) == share_of(share, layer.weight.numel())
        assert not layer.weight[layer.weight == 0].signbit().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_stay_and_counts_are_exact(fields, dtype):
    model = apply(fields, image_net().to(dtype), images(dtype), final_sparsity=0.6)
    for layer in layers_of(model):
        assert layer.weight.dtype == dtype
        assert int((layer.weight == 0).sum()) == share_of(0.6, layer.weight.numel())


@pytest.mark.parametrize(("structure", "kept"), [("2:4", 2), ("1:4", 1), ("3:4", 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_patterns_run_along_the_input_channels(fields, structure, kept, groups):
    model = image_net(groups).to(memory_format=torch.channels_last)
    before = model[0].weight.detach().clone()
    plan = str(manager_of(fields, structure=structure).plan(model))
    assert "left alone: its 1 inputs cannot be divided into groups of 4" in plan
    apply(fields, model, images(), structure=structure)
    assert torch.equal(model[0].weight, before)
    assert ((model[2].weight != 0).unflatten(1, (-1, 4)).sum(2) == kept).all()
    assert ((model[5].weight != 0).unflatten(1, (-1, 4)).sum(2) == kept).all()


def test_one_dimensional_convolutions():
    torch.manual_seed(0)
    for kind in KINDS:
        model = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Conv1d(8, 4, 5))
        apply({"type": kind}, model, [(torch.randn(5, 8, 12).cumsum(2),)], structure="2:4")
        for layer in (model[0], model[2]):
            assert ((layer.weight != 0).unflatten(1, (-1, 4)).sum(2) == 2).all()


@pytest.mark.parametrize("goal", [{"final_sparsity": 0.6}, {"structure": "2:4"}], ids=["share", "pattern"])
def test_the_error_falls_from_magnitude_to_wanda_to_sparsegpt_to_exact(goal):
    torch.manual_seed(0)
    layer = nn.Linear(64, 48).double()
    x = correlated(800, 24) @ torch.randn(24, 64, dtype=torch.float64) / 5 + 0.3 * correlated(800, 64, seed=1)
    x *= torch.rand(64) * 2 + 0.1
    want = layer(x)
    errors = []
    for kind in KINDS:
        pruned = apply({"type": kind}, copy.deepcopy(layer), [(x,)], **goal)
        errors.append((pruned(x) - want).norm().item())
    for kind in KINDS[:2]:
        updated = apply({"type": kind, "update_weights": True}, copy.deepcopy(layer), [(x,)], **goal)
        errors.append((updated(x) - want).norm().item())
    plain = copy.deepcopy(layer).weight
    scores = plain.abs().unflatten(1, (-1, 4)) if "structure" in goal else plain.abs().unflatten(1, (1, -1))
    count = scores.shape[2] // 2 if "structure" in goal else 38
    gone = torch.zeros_like(scores).scatter(2, scores.topk(count, 2, largest=False).indices, 1).flatten(1).bool()
    magnitude = (x @ plain.masked_fill(gone, 0).T + layer.bias - want).norm().item()
    sparsegpt, wanda, exact, sparsegpt_updated, wanda_updated = errors
    assert magnitude > 1.1 * wanda
    assert wanda > 1.1 * sparsegpt > 1.1 * exact
    assert wanda > 1.1 * wanda_updated
    assert sparsegpt > 1.1 * sparsegpt_updated


def test_zeros_are_held_in_training_or_handed_back(fields):
    for hold in (True, False):
        model = mlp()
        data = batches()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        manager = manager_of(fields, final_sparsity=0.5, start=1, hold=hold)
        manager.modify(model, optimizer, 10, data=data)
        train(model, optimizer, data, 1)
        zero = [layer.weight == 0 for layer in layers_of(model)]
        assert sum(int(each.sum()) for each in zero) == 832
        train(model, optimizer, data, 2)
        manager.finalize()
        assert (
            all(torch.equal(layer.weight == 0, each) for layer, each in zip(layers_of(model), zero, strict=True))
            is hold
        )


@pytest.mark.parametrize("masks", ["fast", "compact"])
def test_a_run_that_goes_on_after_it_acted_ends_with_the_same_bits(fields, masks, tmp_path):
    ends = []
    for stop in (None, 7, 17):
        model, data = conv_net(), batches(image=True)
        parts = [model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)]
        manager = manager_of(fields, final_sparsity=0.5, start=1, masks=masks)
        manager.modify(*parts, 10, data=data)
        steps = (data * 3)[:stop]
        train(*parts, steps)
        if stop is not None:
            paredown.save(tmp_path / "c.pt", *parts, manager)
            model = conv_net(seed=9)
            parts = [model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)]
            manager = manager_of(fields, final_sparsity=0.5, start=1, masks=masks)
            manager.modify(*parts, 10, data=data)
            paredown.resume(tmp_path / "c.pt", *parts, manager)
            train(*parts, (data * 3)[stop:])
        manager.finalize()
        ends.append(model.state_dict())
    assert all(torch.equal(value, end[name]) for end in ends[1:] for name, value in ends[0].items())


def test_what_an_earlier_modifier_pruned_stays_and_counts(fields):
    model = mlp()
    first = {"type": "magnitude_pruning", "final_sparsity": 0.3, "scope": "local", "start": 0, "end": 1}
    later = {**fields, "final_sparsity": 0.5, "start": 2}
    manager = ScheduledManager(Recipe.load(recipe_of(3, first=first, later=later)))
    optimizer, data = torch.optim.SGD(model.parameters(), 0.1), batches()
    manager.modify(model, optimizer, 10, data=data)
    train(model, optimizer, data, 1)
    zero = [layer.weight == 0 for layer in layers_of(model)]
    train(model, optimizer, data, 2)
    manager.finalize()
    for layer, before in zip(layers_of(model), zero, strict=True):
        assert int(before.sum()) == share_of(0.3, layer.weight.numel())
        assert not layer.weight[before].any()
        assert int((layer.weight == 0).sum()) == share_of(0.5, layer.weight.numel())


def test_a_failure_midway_puts_all_weights_back(fields):
    class Spoils(nn.Module):
        def forward(self, x):
            return x / 0 if self.spoil else x

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), Spoils(), nn.Linear(8, 4))
    model[2].spoil = True
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ScheduleError, match="p: what went into 3 held NaN or infinity"):
        apply(fields, model, [(torch.randn(30, 8),)], final_sparsity=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nan_weights_are_refused_by_name(fields):
    model = mlp()
    model[2].weight.data[0, 0] = torch.nan
    with pytest.raises(TargetError, match="the weight of 2 contains NaN or infinity: nothing was pruned"):
        apply(fields, model, batches(), final_sparsity=0.5)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    manager = manager_of(fields, final_sparsity=0.5, start=1)
    manager.modify(model, optimizer, 2, data=batches())
    model[4].weight.data[0, 0] = torch.inf
    with pytest.raises(TargetError, match="the weight of . contains NaN or infinity: nothing was pruned at step 2"):
        train(model, optimizer, batches(2))


def test_data_is_asked_for(fields):
    model = mlp()
    with pytest.raises(ScheduleError, match=r"p \(.*\) needs batches to calibrate on: apply"):
        manager_of(fields, final_sparsity=0.5).apply(model)
    with pytest.raises(ScheduleError, match=r"p \(.*\) needs batches to calibrate on: modify"):
        manager_of(fields, final_sparsity=0.5).modify(model, torch.optim.SGD(model.parameters(), 0.1), 4)


def test_tied_and_computed_weights_are_left_alone(fields):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.inner, self.head = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.normed(self.inner(self.embedding(x))))

    model = Tied()
    before = copy.deepcopy(model.state_dict())
    plan = str(manager_of(fields, final_sparsity=0.5).plan(model))
    assert "left alone: its weight is tied to 'embedding'" in plan
    assert "left alone: its weight is computed, not stored" in plan
    assert "32 of 64 weights zero" in plan
    apply(fields, model, [(torch.randint(0, 10, (4, 6)),)], final_sparsity=0.5)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["inner.weight"]


def test_layers_that_no_batch_reaches_lose_their_smallest_weights(fields):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    weight = model.self_attn.out_proj.weight.detach().clone()
    manager = manager_of(fields, final_sparsity=0.5)
    manager.apply(model, data=[(torch.randn(4, 5, 8),)])
    pruned = model.self_attn.out_proj.weight == 0
    assert int(pruned.sum()) == 32
    assert torch.allclose(model.self_attn.out_proj.weight, weight.masked_fill(pruned, 0))
    unseen = next(event["without_data"] for event in manager.events if event["event"] == "update")
    assert "self_attn.out_proj" in unseen


def test_shares_by_pattern(fields):
    scope = {"layers": {"re:[24]": 0.25, "4": 0.0}}
    model = apply(fields, mlp(), batches(), final_sparsity=0.5, scope=scope)
    assert [int((layer.weight == 0).sum()) for layer in layers_of(model)] == [256, 256, 0]
    with pytest.raises(TargetError, match="means none of the layers"):
        apply(fields, mlp(), batches(), final_sparsity=0.5, scope={"layers": {"1": 0.25}})


def test_bad_fields_are_errors_of_the_recipe(fields):
    for more, message in (
        ({}, "final_sparsity is missing"),
        ({"structure": "4:2"}, "'4:2' is no structure here"),
        ({"structure": "kernel", "final_sparsity": 0.5}, "'kernel' is no structure here"),
        ({"structure": "2:4", "final_sparsity": 0.7}, "has a share of 0.5: leave it out"),
        ({"scope": "global", "final_sparsity": 0.5}, "scope"),
    ):
        with pytest.raises(RecipeError, match=message):
            manager_of(fields, **more)
    manager_of(fields, structure="2:4", final_sparsity=0.5)


def test_the_plan_says_what_is_set_but_unused():
    fields = {"type": "wanda_pruning", "structure": "2:4", "scope": {"layers": {"0": 0.5}}, "damping": 0.1}
    plan = str(manager_of(fields).plan(mlp()))
    assert "scope is set but has no effect" in plan
    assert "damping is set but has no effect" in plan


@pytest.mark.parametrize("kind", ["wanda_pruning", "sparsegpt"])
def test_owl_gives_blocks_with_outliers_more(kind):
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(32, 32, bias=False) for _ in range(4)])
    with torch.no_grad():
        model[1].weight[:2] *= 40
    data = [torch.randn(16, 32) for _ in range(4)]
    fields = {"type": kind, "final_sparsity": 0.6, "scope": "owl"}
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(model, data=data)
    shares = [float((layer.weight == 0).float().mean()) for layer in model]
    assert sum(shares) / 4 == pytest.approx(0.6, abs=2e-3)
    assert shares[1] == min(shares) == pytest.approx(max(shares) - 0.16, abs=2e-3)
