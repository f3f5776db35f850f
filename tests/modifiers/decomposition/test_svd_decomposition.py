import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_models import batches, mlp, pruning, recipe_of, train, zeros
from torch import nn

from paredown import Recipe, RecipeError, ScheduledManager, TargetError
from paredown.framework.modifier.curves import share_of


def manager_of(rank, epochs=2, guard="none", more=None, **fields):
    svd = {"type": "svd_decomposition", "rank": rank, "guard": guard, **fields}
    return ScheduledManager(Recipe.load(recipe_of(epochs, svd=svd, **(more or {}))))


@pytest.mark.parametrize(("rows", "columns"), [(48, 32), (20, 64)])
def test_linear_is_the_optimum_of_its_rank(rows, columns):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(columns, rows).double())
    weight, bias = model[0].weight.detach().clone(), model[0].bias
    manager_of(7).apply(model)
    left, right = model[0][1].weight, model[0][0].weight
    values = torch.linalg.svdvals(weight)
    assert abs((weight - left @ right).norm() - values[7:].norm()) < 1e-12 * values.norm()
    assert model[0][1].bias is bias
    assert left.norm().item() == pytest.approx(right.norm().item(), rel=1e-9)
    assert [type(layer) for layer in model[0]] == [nn.Linear, nn.Linear]


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.just("valid")),
    mode=st.sampled_from(["zeros", "reflect", "circular", "replicate"]),
    bias=st.booleans(),
    form=st.sampled_from(["spatial", "channel"]),
)
def test_convolution_at_full_rank_is_exact(inputs, outputs, kernel, stride, dilation, padding, mode, bias, form):
    torch.manual_seed(0)
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=bias, padding_mode=mode).double()
    model, x = nn.Sequential(layer), torch.randn(2, inputs, 11, 12, dtype=torch.float64)
    want = model(x)
    manager_of(10**6, convolution=form).apply(model)
    assert type(model[0]) is nn.Sequential
    assert torch.allclose(model(x), want, atol=1e-9)


def test_same_padding():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, (4, 3), padding="same", dilation=2).double())
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    want = model(x)
    manager_of(10**6).apply(model)
    assert torch.allclose(model(x), want, atol=1e-9)


def test_rank_by_ratio_and_energy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256, bias=False))
    manager_of({"ratio": 4.0}).apply(model)
    assert sum(p.numel() for p in model.parameters()) == 256 * 256 // 4
    model = nn.Sequential(nn.Linear(64, 48, bias=False))
    values = torch.linalg.svdvals(model[0].weight.detach().double()).square()
    manager_of({"energy": 0.9}).apply(model)
    rank = model[0][0].out_features
    assert values[:rank].sum() >= 0.9 * values.sum() > values[: rank - 1].sum()


@pytest.mark.parametrize(
    "rank", [0, -1, 1.5, "two", {"ratio": 1}, {"energy": 0}, {"ratio": 2, "energy": 1}, {"rate": 2}]
)
def test_ranks_that_are_none(rank):
    with pytest.raises(RecipeError, match="rank"):
        manager_of(rank)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays(dtype):
    model = nn.Sequential(nn.Linear(32, 32)).to(dtype)
    manager_of(4).apply(model)
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_in_training_the_optimizer_follows_and_the_factors_are_pruned():
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = manager_of(8, 4, targets=["2"], start=1, more={"prune": pruning(0.8, 2, 3, targets=["2"])})
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 4)
    manager.finalize()
    factors = [model[2][0].weight, model[2][1].weight]
    assert sum(int((w == 0).sum()) for w in factors) == share_of(0.8, 2 * 8 * 32)
    assert zeros(model) == share_of(0.8, 2 * 8 * 32)
    assert all(id(p) in {id(q) for g in optimizer.param_groups for q in g["params"]} for p in model.parameters())
    assert len(optimizer.state) == len(list(model.parameters()))


def test_what_cannot_be_done_is_left_alone_with_the_reason():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 32)
            self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
            self.grouped = nn.Conv2d(8, 8, 3, groups=2)
            self.head = nn.Linear(32, 50, bias=False)
            self.head.weight = self.embedding.weight
            self.fine = nn.Linear(32, 32)

    model = Model()
    manager = manager_of(4)
    plan = str(manager.plan(model))
    for words in ("depthwise", "tied to 'embedding'", "tied to 'head'", "rank 4 of 32"):
        assert words in plan
    manager.apply(model)
    assert model.head.weight is model.embedding.weight
    assert type(model.depthwise) is nn.Conv2d
    assert type(model.fine) is nn.Sequential
    told = {event["layer"] for event in manager.events if event["event"] == "left alone"}
    assert type(model.grouped) is nn.Sequential
    assert told == {"depthwise", "embedding", "head"}


@pytest.mark.parametrize("inputs", [None, torch.randn(1, 64)])
def test_the_guard_leaves_what_would_be_slower(inputs):
    model = nn.Sequential(nn.Linear(64, 64))
    manager = manager_of(60, guard=None)
    given = {} if inputs is None else {"example_inputs": (inputs,)}
    assert "slower" in str(manager.plan(model, **given))
    manager.apply(model, **given)
    assert type(model[0]) is nn.Linear


def test_the_measured_guard_lets_pass_what_is_faster():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2048, 2048))
    manager_of(16, guard="latency").apply(model, example_inputs=(torch.randn(64, 2048),))
    assert type(model[0]) is nn.Sequential


def test_nan_is_named_and_nothing_changes():
    model = mlp()
    model[4].weight.data[0, 0] = float("nan")
    with pytest.raises(TargetError, match="weight of 4 contains NaN"):
        manager_of(2).apply(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_zero_weights_are_no_trouble():
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    nn.init.zeros_(model[0].weight)
    x = torch.randn(1, 4, 5, 5)
    want = model(x)
    manager_of(2).apply(model)
    assert torch.equal(model(x), want)
