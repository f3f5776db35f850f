"""The floor: of each layer something stays, and the whole share is reached."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_models import batches, mlp, recipe_of, size, train, weights, zeros
from torch import nn

from paredown import Recipe, RecipeError, ScheduledManager, TargetError
from paredown.framework.modifier.curves import share_of
from paredown.modifiers.pruning.masks.floor import least_kept
from paredown.modifiers.pruning.masks.scope import shares_within, whole_counts

DATA = batches(6)
CRITERIA = ["magnitude", "taylor", "fisher", "synflow", "snip", "grasp", "random"]
STRUCTURES = ["unstructured", {"block": [2, 2]}, "channel"]
SCOPES = ["global", "lamp", "owl", "erk", "uniform_plus", "local"]


def uneven():
    """Large weights in front, small ones at the end, and outliers in one layer."""
    model = mlp(64)
    with torch.no_grad():
        model[0].weight.mul_(50)
        model[2].weight[:3].mul_(100)
        model[4].weight.mul_(1e-3)
    return model


def manager_of(**fields):
    return ScheduledManager(Recipe.load(recipe_of(3, p={"type": "magnitude_pruning", **fields})))


def kept(weight, structure):
    """Units with a weight that is not zero."""
    rows, columns = {"unstructured": (1, 1), "channel": (1, weight.shape[1])}.get(str(structure), (2, 2))
    blocks = weight.reshape(weight.shape[0] // rows, rows, weight.shape[1] // columns, columns)
    return int((blocks != 0).any(3).any(1).sum()), blocks.shape[0] * blocks.shape[2]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_layer_keeps_its_least_and_the_whole_share_is_reached(criterion, structure, scope):
    model = uneven()
    share = 0.9 if structure == "channel" else 0.95
    fields = {"type": f"{criterion}_pruning", "final_sparsity": share, "structure": structure, "scope": scope}
    manager_of(**fields).apply(model, data=DATA, example_inputs=DATA[0][:1])
    counts = [kept(weight, structure) for weight in weights(model)]
    assert all(left >= math.ceil(0.01 * total) for left, total in counts), counts
    if scope != "local":
        total = sum(total for _, total in counts)
        assert total - sum(left for left, _ in counts) == share_of(share, total)


@pytest.mark.parametrize("kind", ["wanda_pruning", "sparsegpt"])
def test_layer_by_layer_with_outliers_in_one_layer(kind):
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(32, 32, bias=False) for _ in range(4)])
    with torch.no_grad():
        model[1].weight[:2] *= 40
    data = [torch.randn(16, 32) for _ in range(4)]
    manager_of(type=kind, final_sparsity=0.95, scope="owl", layer_floor=0.02).apply(model, data=data)
    left = [int((layer.weight != 0).sum()) for layer in model]
    assert min(left) == math.ceil(0.02 * 1024)
    assert sum(left) == 4096 - share_of(0.95, 4096)


def test_at_every_step_of_a_schedule_no_more_goes_than_the_floor_allows():
    model = uneven()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    manager = manager_of(final_sparsity=0.8, layer_floor=0.1, end=2, every="1 steps")
    manager.modify(model, optimizer, 6)
    shares = []
    train(model, optimizer, DATA, 3, lambda: shares.append([float((w == 0).float().mean()) for w in weights(model)]))
    assert max(max(each) for each in shares) <= 0.9
    assert [each[2] for each in shares] == sorted(each[2] for each in shares)
    assert zeros(model) == share_of(0.8, size(model))
    manager.finalize()


def test_what_an_earlier_modifier_emptied_is_not_given_back():
    model = uneven()
    earlier = {"type": "magnitude_pruning", "final_sparsity": 0.5, "layer_floor": 0.0, "curve": "constant", "end": 1}
    later = {"type": "magnitude_pruning", "final_sparsity": 0.8, "start": 2, "end": 3}
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    manager = ScheduledManager(Recipe.load(recipe_of(4, a=earlier, b=later)))
    manager.modify(model, optimizer, 6)
    train(model, optimizer, DATA, 4)
    assert (model[4].weight == 0).all()
    assert zeros(model) == share_of(0.8, size(model))
    manager.release()


def test_a_floor_that_leaves_no_room_is_refused():
    for fields in (
        {"final_sparsity": 0.8},
        {"structure": "1:4", "layer_floor": 0.3},
        {"scope": {"layers": {"0": 0.8}}},
        {"final_sparsity": 0.5, "curve": [[0, 0.8], [1, 0.5]]},
        {"type": "wanda_pruning", "final_sparsity": 0.8},
    ):
        with pytest.raises(RecipeError, match=r"each layer keeps 0\.3 of its weights, and a sparsity of 0\.\d+ leaves"):
            manager_of(**{"layer_floor": 0.3, **fields})
    for floor in (-0.1, 1.1):
        with pytest.raises(RecipeError, match="layer_floor"):
            manager_of(final_sparsity=0.0, layer_floor=floor)
    model = mlp(8)
    with pytest.raises(
        TargetError, match=r"^p: 19 of 20 units are to go, 0\.95 of them.*lets 17 go, 0\.85.*layer_floor"
    ):
        manager_of(final_sparsity=0.95, structure="channel").apply(model)
    assert not zeros(model)
    manager_of(final_sparsity=0.95, structure="channel", layer_floor=0.0).apply(model)


def test_the_default_gives_way_to_a_share_that_leaves_little():
    assert least_kept({"a": 1000, "b": 1000, "c": 10}, {"a": 0.5, "b": 0.996, "c": 1.0}, None) == {
        "a": 10,
        "b": 2,
        "c": 0,
    }
    assert least_kept({"a": 3}, {"a": 0.5}, None) == {"a": 1}
    assert least_kept({"a": 100}, {"a": 0.5}, 0.07) == {"a": 7}


@given(st.data())
def test_shares_within_limits_add_up(data):
    sizes = {name: data.draw(st.integers(1, 100)) for name in "abcd"}
    least = {name: data.draw(st.integers(0, size)) for name, size in sizes.items()}
    most = {name: data.draw(st.integers(least[name], size)) for name, size in sizes.items()}
    total = data.draw(st.integers(sum(least.values()), sum(most.values())))
    shares = {name: data.draw(st.floats(0, 1)) for name in sizes}
    counts = whole_counts(sizes, shares_within(sizes, shares, total, least, most), total, least, most)
    assert sum(counts.values()) == total
    assert all(least[name] <= counts[name] <= most[name] for name in sizes)


def test_what_the_others_give_is_in_proportion_to_what_they_keep():
    found = shares_within(dict.fromkeys("abc", 100), {"a": 1.0, "b": 0.9, "c": 0.8}, 270, {}, dict.fromkeys("abc", 98))
    assert found["a"] == pytest.approx(0.98)
    assert (1 - found["c"]) / (1 - found["b"]) == pytest.approx(2)
    assert sum(found.values()) == pytest.approx(2.7)


@pytest.mark.parametrize(
    "scope", ["global", "lamp", "owl", "erk", "uniform_plus", "local", {"layers": {"0": 0.7, "4": 0.3}}]
)
@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
@pytest.mark.parametrize("kind", ["magnitude_pruning", "random_pruning"])
def test_the_plan_foresees_what_each_layer_gives(kind, structure, scope):
    model = uneven()
    fields = {"type": kind, "structure": structure, "scope": scope}
    manager = manager_of(**fields, **({} if isinstance(scope, dict) else {"final_sparsity": 0.8}))
    lines = {line.layer: line for line in manager.plan(model).modifiers[0].layers}
    manager.apply(model)
    for name in "024":
        share = float((model[int(name)].weight == 0).double().mean())
        assert 1 - lines[name].density == pytest.approx(share)
        assert f"{share:.4g} of it zero" in lines[name].effect
        assert "estimate" not in lines[name].effect


@pytest.mark.parametrize(
    ("kind", "origin"), [("taylor", "gradients"), ("wanda", "data"), ("synflow", "model's output")]
)
def test_the_plan_says_where_it_can_only_estimate(kind, origin):
    fields = {"type": "acdc", "every": 1, "criterion": kind} if kind == "wanda" else {"type": f"{kind}_pruning"}
    manager = manager_of(**fields, final_sparsity=0.8, scope="global")
    lines = manager.plan(uneven()).modifiers[0].layers
    assert all("estimate" in line.effect and origin in line.effect for line in lines)
    assert max(1 - line.density for line in lines) <= 0.99
