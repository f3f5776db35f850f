"""The half-quadratic grid against a search over scales and zero points."""

import pytest
import torch
from sample_models import mlp, recipe_of

from paredown import Recipe, ScheduledManager
from paredown.modifiers.quantization.fake_quantize import fake_quantize
from paredown.modifiers.quantization.half_quadratic import NORM, half_quadratic_grid
from paredown.modifiers.quantization.scales import weight_parameters
from paredown.modifiers.quantization.scheme import WeightScheme
from paredown.modifiers.quantization.weight_layout import spread, view_for


def errors(weight, scale, zero_point, scheme):
    view = view_for(weight, scheme)
    new = fake_quantize(view, spread(scale, scheme), spread(zero_point, scheme), scheme)
    return (new - view).abs().pow(NORM).sum(-1)


@pytest.mark.parametrize("symmetric", [True, False])
def test_never_worse_than_the_plain_grid_and_better_with_outliers(symmetric):
    torch.manual_seed(0)
    weight = torch.randn(32, 128)
    weight[:, ::32] *= 8
    weight[:, 5] = 0
    scheme = WeightScheme(bits=4, group_size=32, symmetric=symmetric)
    plain = errors(weight, *weight_parameters(weight, scheme), scheme)
    grid = half_quadratic_grid(weight, scheme)
    ours = errors(weight, grid.scale, grid.zero_point, scheme)
    assert (ours <= plain * (1 + 1e-5)).all()
    if symmetric:
        assert ours.sum() < 0.95 * plain.sum()
    assert grid.zero_point.dtype == torch.int32
    new = fake_quantize(view_for(weight, scheme), spread(grid.scale, scheme), spread(grid.zero_point, scheme), scheme)
    assert new.reshape(weight.shape)[:, 5].eq(0).all()


def test_the_symmetric_scale_is_near_the_best_one():
    torch.manual_seed(1)
    weight = torch.cat([torch.randn(8, 63), torch.full((8, 1), 9.0)], 1)
    scheme = WeightScheme(bits=4)
    grid = half_quadratic_grid(weight, scheme)
    ours = errors(weight, grid.scale, grid.zero_point, scheme)
    start = weight_parameters(weight, scheme)[0]
    tried = [
        errors(weight, start * share, torch.zeros_like(grid.zero_point), scheme)
        for share in torch.linspace(0.2, 1, 200)
    ]
    assert (ours <= 1.25 * torch.stack(tried).amin(0)).all()


def test_as_a_modifier_it_needs_no_data():
    model = mlp(width=32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fields = {"type": "half_quadratic", "weights": {"bits": 4, "group_size": 16, "symmetric": False}}
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert model[0].weight_scale.shape == (32, 1)
    assert model[0].weight_zero_point.shape == (32, 1)
