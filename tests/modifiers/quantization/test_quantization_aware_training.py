import copy

import pytest
import torch
from sample_models import batches, conv_net, mlp, pruning, recipe_of, train, zeros
from torch import nn

from paredown import Recipe, ScheduledManager, ScheduleError, TargetError
from paredown.framework.model.links import links_of
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer

INT8 = {"type": "quantization_aware_training"}


def manager_of(epochs=2, **modifiers):
    return ScheduledManager(Recipe.load(recipe_of(epochs, **modifiers)))


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.01)


class Identity(nn.Sequential):
    """A Linear of 1 with weight 1: what comes out is the quantized input."""

    def __init__(self):
        super().__init__(nn.Linear(1, 1, bias=False))
        nn.init.ones_(self[0].weight)


@pytest.mark.parametrize("symmetric", [False, True])
def test_inputs_lie_on_the_grid_of_what_was_seen(symmetric):
    model = Identity()
    data = [torch.rand(64, 1) * 3 - 0.5 for _ in range(8)]
    activations = {"bits": 8, "symmetric": symmetric, "observer": "minmax"}
    manager_of(q={**INT8, "activations": activations}).apply(model, data=[(x,) for x in data])
    low, high = min(float(x.min()) for x in data), max(float(x.max()) for x in data)
    step = max(-low, high) / 127 if symmetric else (high - low) / 255
    x = torch.linspace(-4, 6, 4001).reshape(-1, 1)
    out = model.eval()(x).detach()
    levels = out.unique()
    assert levels.numel() == (255 if symmetric else 256)
    assert levels.diff().max() < 1.001 * step
    assert levels.abs().min() == 0
    inside = (x > low) & (x < high)
    assert (out - x)[inside].abs().max() <= 0.5001 * step


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_lie_on_their_grid(bits, granularity, symmetric):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 24, bias=False).double())
    weight = model[0].weight.data
    weight[3] = 0
    weight[5] *= 100
    before = weight.clone()
    scheme = {"bits": bits, "granularity": granularity, "symmetric": symmetric}
    manager_of(q={**INT8, "weights": scheme, "activations": None}).apply(model)
    with torch.no_grad():
        multiplied = model(torch.eye(64, dtype=torch.float64)).T
    assert torch.equal(model[0].weight, before)
    rows = zip(before, multiplied, strict=True) if granularity == "channel" else [(before, multiplied)]
    for row, q in rows:
        low, high = row.min().clamp(max=0), row.max().clamp(min=0)
        step = row.abs().max() / (2 ** (bits - 1) - 1) if symmetric else (high - low) / (2**bits - 1)
        assert q.unique().numel() <= 2**bits
        assert (row - q).abs().max() <= (0.5 if symmetric else 1.0) * step * 1.001 + 1e-12
        assert q[row == 0].eq(0).all()


def test_the_gradient_passes_straight_through():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8))
    optimizer, manager = sgd(model), manager_of(q={**INT8, "freeze_observers": 1})
    manager.modify(model, optimizer, 10)
    data = [(torch.randn(64, 8), torch.randint(0, 8, (64,))) for _ in range(10)]
    train(model, optimizer, data, 2)
    weight = model[0].weight.detach()
    scale = weight.abs().amax(1, keepdim=True) / 127
    rounded = (weight / scale).round() * scale
    x = torch.zeros(1, 8, requires_grad=True)
    model(x).sum().backward()
    assert torch.allclose(x.grad[0], rounded.sum(0), atol=1e-6)
    far = torch.full((1, 8), 1e4, requires_grad=True)
    model(far).sum().backward()
    assert (far.grad == 0).all()


def test_names_stay_and_scales_are_added():
    model = conv_net()
    names = set(model.state_dict())
    optimizer, manager = sgd(model), manager_of(q={**INT8, "targets": ["Conv2d"]})
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(image=True), 2)
    manager.finalize()
    added = set(model.state_dict()) - names
    assert added == {
        f"{layer}.{name}" for layer in ("stem", "body") for name in ("weight_scale", "input_scale", "input_zero_point")
    }
    x = batches(image=True)[0][0]
    model.eval()
    want = model(x)
    assert torch.equal(copy.deepcopy(model)(x), want)
    assert not torch.equal(want, _plain(model)(x))


def _plain(model):
    fresh = conv_net()
    fresh.load_state_dict(model.state_dict(), strict=False)
    return fresh.eval()


def test_observers_freeze_in_time_and_batch_norm_too():
    model = conv_net()
    q = {**INT8, "targets": ["Conv2d"], "freeze_observers": 1, "freeze_batch_norm": "15 steps"}
    optimizer, manager = sgd(model), manager_of(3, q=q)
    manager.modify(model, optimizer, 10)
    seen = []
    watch = lambda: seen.append((model.body.input_scale.item(), model.norm.running_mean.clone()))  # noqa: E731
    train(model, optimizer, batches(30, image=True), 1, after=watch)
    assert len({scale for scale, _ in seen[:10]}) == 10
    assert len({scale for scale, _ in seen[9:]}) == 1
    assert not torch.equal(seen[13][1], seen[14][1])
    assert torch.equal(seen[14][1], seen[29][1])
    assert [event["event"] for event in manager.events if event["modifier"] == "q"] == [
        "start",
        "freeze observers",
        "freeze batch norm",
        "end",
    ]


def test_the_moving_average_is_the_one_that_is_documented():
    model = Identity()
    optimizer, manager = sgd(model), manager_of(1, q=INT8)
    manager.modify(model, optimizer, 5)
    low = high = None
    for _ in range(5):
        x = torch.randn(16, 1)
        new = float(x.min()), float(x.max())
        low, high = new if low is None else (low + 0.01 * (new[0] - low), high + 0.01 * (new[1] - high))
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
    assert model[0].input_scale.item() == pytest.approx((high - low) / 255, rel=1e-5)


def test_pruned_weights_stay_zero():
    model = conv_net()
    q = {**INT8, "start": 1, "weights": {"bits": 4}}
    optimizer, manager = torch.optim.AdamW(model.parameters()), manager_of(2, prune=pruning(0.7, 0, 1), q=q)
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(image=True), 2)
    manager.finalize()
    stored = [weight_quantizer(m).stored_codes(m)["weight"] for m in (model.stem, model.body, model.head)]
    assert sum(int((codes == 0).sum()) for codes, _ in stored) >= zeros(model)
    assert all(bits == 4 and codes.abs().max() <= 7 for codes, bits in stored)


class SamePad(nn.Conv2d):
    """A subclass with a forward of its own, as model zoos have."""

    def forward(self, x):
        x = nn.functional.pad(x, (0, 1, 0, 1))
        return nn.functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_subclass_keeps_its_forward(compiled):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(SamePad(3, 8, 2), nn.ReLU(), SamePad(8, 8, 2, groups=8), nn.Flatten(), nn.Linear(800, 5))
    data = [(torch.randn(8, 3, 10, 10),) for _ in range(4)]
    want = model(data[0][0])
    manager_of(q=INT8).apply(model, data=data)
    forward = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    got = forward(data[0][0])
    assert 0 < (got - want).norm() / want.norm() < 0.05


def test_layers_whose_forward_nobody_calls_are_left_alone_by_name():
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    plan = str(manager_of(q=INT8).plan(nn.Sequential(model, nn.Linear(16, 16)), steps_per_epoch=10))
    assert "0.self_attn.out_proj" in plan
    assert "left alone" not in plan


def test_a_layer_without_data_is_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x):
            return self.used(x)

    model = Unused()
    optimizer, manager = sgd(model), manager_of(q=INT8)
    manager.modify(model, optimizer, 10)
    with pytest.warns(UserWarning, match="q: the forward of idle was not called"):
        train(model, optimizer, batches(), 2)
    with pytest.raises(ScheduleError, match="no input of idle was seen"):
        manager.finalize()


def test_bad_weights_and_missing_data_are_named():
    model = mlp()
    with pytest.raises(ScheduleError, match=r"q \(quantization_aware_training\) needs batches"):
        manager_of(q=INT8).apply(model)
    model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(TargetError, match=r"weight of 2 contains NaN"):
        manager_of(q=INT8).apply(model, data=batches())
    assert type(model[0]) is nn.Linear
    assert "input_scale" not in dict(model[0].named_buffers())


def test_release_takes_the_quantizers_off_and_finalize_keeps_them():
    for finalized in (False, True):
        model = mlp()
        optimizer, manager = sgd(model), manager_of(q=INT8)
        manager.modify(model, optimizer, 10)
        train(model, optimizer, batches(), 2)
        if finalized:
            manager.finalize()
        manager.release()
        assert bool(links_of(model[0])) is finalized
        assert ("0.input_scale" in model.state_dict()) is finalized


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("observer", ["minmax", "moving_average", "mse"])
def test_inputs_that_are_not_finite_are_named(bad, observer):
    model, data = mlp(), batches()
    data[3][0][0, 0] = bad
    before = copy.deepcopy(model.state_dict())
    fields = {"type": "static_quantization", "activations": {"observer": observer}}
    with pytest.raises(ScheduleError, match="what went into 0, 2, 4 held NaN or infinity"):
        manager_of(q=fields).apply(model, data=data)
    assert model.state_dict().keys() == before.keys()
    assert type(model[0]) is nn.Linear


class ActivatedNorm(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x).relu()


def test_frozen_statistics_leave_the_rest_of_a_batch_norm():
    model = nn.Sequential(nn.Linear(16, 8), ActivatedNorm(8), nn.Linear(8, 4))
    optimizer, manager = sgd(model), manager_of(1, q={**INT8, "freeze_batch_norm": 0})
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(10), 1)
    x = torch.randn(5, 8)
    assert torch.equal(model[1].train()(x), model[1].eval()(x))
    assert model[1].train()(x).min() == 0
    assert model[1].training


def test_a_model_trained_in_eval_mode_is_told_as_such():
    model = mlp().eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = ScheduledManager(Recipe.load(recipe_of(1, quantize={"type": "quantization_aware_training"})))
    manager.modify(model, optimizer, 2)
    with pytest.warns(UserWarning, match=r"call model\.train\(\)"):
        train(model, optimizer, batches(2), 1)
    with pytest.raises(ScheduleError, match=r"call model\.train\(\)"):
        manager.finalize()
