"""AWQ: what is scaled leaves the function alone, and what is rounded changes the result less."""

import copy

import pytest
import torch
from sample_models import recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.modifiers.quantization.awq import CLIPPING, clipped_grid, salience
from paredown.modifiers.quantization.numbers.fake_quantize import fake_quantize
from paredown.modifiers.quantization.numbers.scales import affine_parameters, weight_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import spread, view_for


class Feed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.gate = nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.down = nn.Linear(32, 32)
        with torch.no_grad():
            self.norm.weight.copy_(torch.logspace(-1, 1.5, 32)[torch.randperm(32)])

    def forward(self, x):
        y = self.norm(x)
        return x + self.down(self.up(y) * torch.sigmoid(self.gate(y)))


def build():
    torch.manual_seed(0)
    return nn.Sequential(Feed(), Feed(), Feed()).eval()


def error_of(kind, data, **weights):
    model = build()
    want = model(data[0][0])
    fields = {"type": kind, "weights": {"bits": 3, "group_size": 16, **weights}}
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model, data=data)
    return (model(data[0][0]) - want).norm().item(), model


@pytest.mark.parametrize("symmetric", [True, False])
def test_better_than_rounding_to_the_nearest(symmetric):
    data = [(torch.randn(64, 32),) for _ in range(4)]
    nearest, _ = error_of("weight_quantization", data, symmetric=symmetric)
    ours, model = error_of("awq", data, symmetric=symmetric)
    assert ours < 0.9 * nearest
    for layer in (module for module in model.modules() if isinstance(module, nn.Linear)):
        scheme = WeightScheme(bits=3, group_size=16, symmetric=symmetric)
        zero_point = getattr(layer, "weight_zero_point", torch.zeros_like(layer.weight_scale, dtype=torch.int32))
        parts = spread(layer.weight_scale, scheme), spread(zero_point, scheme)
        again = fake_quantize(view_for(layer.weight, scheme), *parts, scheme).reshape(layer.weight.shape)
        assert torch.allclose(again, layer.weight, atol=1e-6)  # the new weights lie on their grid


def test_the_clipping_is_the_best_of_the_shares():
    torch.manual_seed(0)
    weight, x = torch.randn(4, 24), torch.randn(200, 24) @ torch.randn(24, 24)
    weight[:, 3] *= 6
    moments = x.T @ x / len(x)
    scheme = WeightScheme(bits=3, group_size=8)
    grid = clipped_grid(weight, moments[None], scheme)
    for row in range(4):
        for group in range(3):
            values, block = weight[row, group * 8 :][:8], moments[group * 8 :][:8, group * 8 :][:, :8]
            errors = []
            for share in CLIPPING:
                scale, zero_point = affine_parameters(values.min() * share, values.max() * share, scheme)
                new = fake_quantize(values, scale, zero_point, scheme) - values
                errors.append(((new @ block @ new).item(), scale.item()))
            assert grid.scale[row, group].item() == pytest.approx(min(errors)[1], rel=1e-5)


def test_salience_is_centred_and_none_at_exponent_zero():
    magnitude = torch.tensor([0.01, 1.0, 100.0])
    assert torch.equal(salience(magnitude, 0.0), torch.ones(3))
    s = salience(magnitude, 0.5)
    assert s.tolist() == pytest.approx([0.1, 1.0, 10.0])


def test_without_rounding_the_factors_change_nothing():
    data = [(torch.randn(64, 32),) for _ in range(2)]
    model = build()
    want, norms = model(data[0][0]), [copy.deepcopy(block.norm.weight) for block in model]
    fields = {"type": "awq", "weights": {"bits": 8, "group_size": 16}}
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model, data=data)
    assert (model(data[0][0]) - want).norm() / want.norm() < 0.01
    assert weight_parameters(model[0].up.weight, WeightScheme())[0].isfinite().all()
    assert any(not torch.equal(block.norm.weight, norm) for block, norm in zip(model, norms, strict=True))


def test_a_failure_midway_leaves_the_model_as_it_was(monkeypatch):
    from paredown.modifiers.quantization import awq

    whole, calls = awq.clipped_grid, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise MemoryError("no more")
        return whole(*arguments)

    monkeypatch.setattr(awq, "clipped_grid", failing)
    model = build()
    before = copy.deepcopy(model.state_dict())
    fields = {"type": "awq", "weights": {"bits": 3, "group_size": 16}}
    with pytest.raises(MemoryError):
        ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model, data=[(torch.randn(64, 32),)])
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert type(model[0].up) is nn.Linear
