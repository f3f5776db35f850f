"""How ranks are chosen: layer by layer, by measured time, and by one target for the whole model."""

import copy

import pytest
import torch
from decomposing import METHODS, manager_of
from sample_models import mlp, training_of
from torch import nn

from paredown import RecipeError, ScheduledManager, ScheduleError, TargetError
from paredown.framework.measure.counts import measure_model
from paredown.modifiers.decomposition.forms.geometry import Geometry
from paredown.modifiers.decomposition.forms.matrix_forms import SpatialForm
from paredown.modifiers.decomposition.tucker_decomposition import TuckerForm


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [2.0, 4.0, 8.0])
def test_a_ratio_is_met_and_ranks_of_convolutions_are_multiples_of_16(method, ratio):
    model = nn.Sequential(nn.Conv2d(64, 128, 3, bias=False))
    dense = parameters(model)
    manager_of(method, {"ratio": ratio}).apply(model)
    assert dense / ratio * 0.55 < parameters(model) <= dense / ratio
    inner = [layer.in_channels for layer in model[0]][1:]
    assert all(rank % 16 == 0 or rank < 16 for rank in inner)


def test_the_largest_ranks_under_a_limit():
    geometry = Geometry.of(nn.Conv2d(24, 40, 3))
    for form in (TuckerForm(geometry), SpatialForm(geometry)):
        for limit in (1, 500, 3000, 8000, 10**6):
            ranks = form.largest(limit)
            level = max(level for level in range(1, form.levels + 1) if form.at(level) == ranks)
            assert form.parameters(ranks) <= limit or ranks == form.at(1)
            assert level == form.levels or form.parameters(form.at(level + 1)) > limit


@pytest.mark.parametrize("method", METHODS)
def test_energy_is_kept(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(12, 10, 3, bias=False).double())
    weight, x = model[0].weight.detach().clone(), torch.eye(12 * 9, dtype=torch.float64).reshape(-1, 12, 3, 3)
    manager_of(method, {"energy": 0.9}).apply(model)
    got = model(x)[:, :, 0, 0].T.reshape(weight.shape)
    share = (weight - got).square().sum() / weight.square().sum()
    modes = 2 if method in ("tucker_decomposition", "tensor_train_decomposition") else 1
    assert 0 < share <= 0.1 * modes + 1e-9


def test_vbmf_finds_a_planted_rank_and_has_a_floor():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 100, bias=False))
    planted = torch.randn(100, 20) @ torch.randn(20, 200)
    model[0].weight.data = planted + 0.1 * torch.randn(100, 200)
    manager_of("svd_decomposition", "vbmf").apply(model)
    assert model[0][0].out_features == 20
    noise = nn.Sequential(nn.Linear(64, 64))
    with pytest.warns(UserWarning, match="vbmf found rank"):
        manager_of("svd_decomposition", "vbmf").apply(noise)
    assert noise[0][0].out_features == 8


def test_ranks_by_layer():
    model = mlp()
    manager_of("svd_decomposition", {"layers": {"*": 5, "2": {"ratio": 2.0}}}, ignore=["4"]).apply(model)
    assert (model[0][0].out_features, model[2][0].out_features) == (5, 8)
    other = mlp()
    manager_of("svd_decomposition", {"layers": {"2": 3}}).apply(other)
    assert [type(layer) for layer in (other[0], other[2], other[4])] == [nn.Linear, nn.Sequential, nn.Linear]
    with pytest.raises(TargetError, match=r"'1' means none"):
        manager_of("svd_decomposition", {"layers": {"1": 3}}).apply(mlp())


@pytest.mark.parametrize(
    "rank",
    [0, True, "full", {"layers": {}}, {"layers": {"a": {"budget": {"macs": 0.5}}}}, {"budget": {"macs": 2}},
     {"budget": {}}, {"budget": {"macs": 0.5, "bytes": 0.5}}, {"latency": 1}],
)  # fmt: skip
def test_ranks_that_are_none(rank):
    with pytest.raises(RecipeError, match="rank"):
        manager_of("svd_decomposition", rank)


class Uneven(nn.Module):
    """One layer of low rank, one that matters, and one that nearly does nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.low, self.full, self.tiny = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.low.weight.data = torch.randn(64, 4) @ torch.randn(4, 64) / 8
        self.tiny.weight.data /= 100

    def forward(self, x):
        x = self.full(self.low(x))
        return x + self.tiny(x)


def bits_of(measured):
    return sum(layer.bits for layer in measured.layers)


@pytest.mark.parametrize("kind", ["parameters", "bytes", "macs"])
def test_a_budget_is_met_where_it_hurts_least(kind):
    x = torch.randn(64, 64)
    data = [(x,), (torch.randn(64, 64),)]
    whole, other = Uneven(), Uneven()
    want = whole(x)
    manager_of("svd_decomposition", {"budget": {kind: 0.5}}).apply(whole, data=data, example_inputs=(x,))
    before, after = (measure_model(model, (x,)) for model in (Uneven(), whole))
    spent = {"parameters": after.parameters / before.parameters, "bytes": bits_of(after) / bits_of(before)}
    spent["macs"] = after.macs / before.macs
    assert 0.3 < spent[kind] <= 0.5
    manager_of("svd_decomposition", {"ratio": 2.0}).apply(other)
    assert (whole(x) - want).norm() < 0.5 * (other(x) - want).norm()


def test_a_budget_that_cannot_be_met_says_what_can():
    model = Uneven()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ScheduleError, match=r"cannot be met: the ranks that were tried lead to 0\.1"):
        manager_of("svd_decomposition", {"budget": {"parameters": 0.05}}).apply(model, data=[(torch.randn(8, 64),)])
    assert model.state_dict().keys() == before.keys()


def test_a_budget_needs_data_and_the_plan_says_so():
    manager = manager_of("svd_decomposition", {"budget": {"parameters": 0.5}})
    assert "rank by the budget" in str(manager.plan(Uneven()))
    with pytest.raises(ScheduleError, match="low .* needs batches"):
        manager.apply(Uneven())


def test_a_latency_that_is_reached_and_one_that_is_not():
    torch.manual_seed(0)
    x = torch.randn(128, 1024)
    model = nn.Sequential(nn.Linear(1024, 1024))
    manager_of("svd_decomposition", {"latency": 1.3}, guard="latency").apply(model, example_inputs=(x,))
    assert isinstance(model[0], nn.Sequential)
    small = nn.Sequential(nn.Linear(8, 8))
    manager = manager_of("svd_decomposition", {"latency": 50.0})
    manager.apply(small, example_inputs=(torch.randn(1, 8),))
    assert isinstance(small[0], nn.Linear)
    assert any("slower than asked" in event.get("reason", "") for event in manager.events)
    with pytest.raises(ScheduleError, match="measures latency: give example_inputs"):
        manager_of("svd_decomposition", {"latency": 2.0}).apply(nn.Sequential(nn.Linear(8, 8)))


def test_the_rule():
    def reason(layer, rank, method="svd_decomposition"):
        return str(manager_of(method, rank, guard="rule").plan(nn.Sequential(layer)))

    assert "rank 300 would be slower: it has 117%" not in reason(nn.Linear(512, 512), 300)
    assert "would be larger" in reason(nn.Linear(512, 512), 300)
    assert "at most 80%" in reason(nn.Linear(512, 512), 220)
    assert "below 256" in reason(nn.Linear(128, 512), 8)
    assert "left alone" not in reason(nn.Linear(512, 512), 128)
    assert "below 64" in reason(nn.Conv2d(32, 64, 3), 4)
    assert "1.5 times fewer" in reason(nn.Conv2d(128, 128, 3), 135, "svd_decomposition")
    assert "left alone" not in reason(nn.Conv2d(128, 128, 3), 64, "tucker_decomposition")
    assert "left alone" not in reason(nn.Embedding(1000, 32), 8)
    assert "would be larger" in reason(nn.Embedding(1000, 32), 32)
    assert "left alone" not in reason(nn.Linear(64, 64), 4, "tensor_train_decomposition")


def test_sensitivity_trials_and_a_recipe_of_them():
    from paredown.framework.calibration.sensitivity import scan

    model, data = Uneven(), [(torch.randn(64, 64),)]
    modifier = manager_of("svd_decomposition", 4).recipe.modifiers["low"]
    training = training_of(modifier, model, data)
    found = {(each.layer, each.setting): each for each in scan(training, modifier.trials(training))}
    assert found["low", 4.0].error < 1e-9 < found["tiny", 4.0].error < found["full", 4.0].error
    assert found["low", 4.0].cost <= found["low", 4.0].whole / 4
    fields = modifier.with_settings(training, {"low": 4.0, "full": None})
    assert fields == {"rank": {"layers": {"low": {"ratio": 4.0}}}}
    assert isinstance(model.low, nn.Linear)
    assert isinstance(manager_of("svd_decomposition", **fields), ScheduledManager)
