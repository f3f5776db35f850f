"""The half-quadratic zero point against a search over zero points."""

import pytest
import torch
from sample_models import mlp, recipe_of

from paredown import Recipe, RecipeError, ScheduledManager
from paredown.modifiers.quantization.half_quadratic import NORM, AffineWeightScheme, half_quadratic_grid
from paredown.modifiers.quantization.numbers.scales import weight_parameters
from paredown.modifiers.quantization.numbers.weight_layout import spread, view_for

SCHEME = AffineWeightScheme(bits=4, group_size=32)


def errors(weight, scale, zero_point):
    view, scale, zero_point = view_for(weight, SCHEME), spread(scale, SCHEME), spread(zero_point, SCHEME)
    new = ((view / scale + zero_point).round().clamp(0, 15) - zero_point) * scale
    return (new - view).abs().pow(NORM).sum(-1)


def test_near_the_best_of_all_zero_points():
    torch.manual_seed(0)
    weight = torch.randn(32, 128, dtype=torch.float64)
    weight[:, ::32] *= 4
    scale, whole = weight_parameters(weight, SCHEME)
    plain = errors(weight, scale, whole)
    grid = half_quadratic_grid(weight, SCHEME)
    assert torch.equal(grid.scale, scale)
    ours = errors(weight, grid.scale, grid.zero_point)
    assert (ours <= plain * (1 + 1e-9)).all()
    every = torch.stack([errors(weight, scale, whole + shift) for shift in torch.linspace(-0.5, 0.5, 201)])
    assert ours.mean() < 0.99 * plain.mean()
    assert ours.mean() < plain.mean() - 0.3 * (plain.mean() - every.amin(0).mean())


def test_what_the_layer_multiplies_by_is_that_grid():
    torch.manual_seed(0)
    model = mlp(width=32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fields = {"type": "half_quadratic", "weights": {"bits": 4, "group_size": 16}}
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    layer = model[2]
    scale, zero_point = layer.weight_scale[..., None], layer.weight_zero_point[..., None]
    view = layer.weight.detach().view(32, 2, 16)
    want = ((view / scale + zero_point).round().clamp(0, 15) - zero_point) * scale
    with torch.no_grad():
        got = (layer(torch.eye(32)) - layer.bias).T
    assert torch.allclose(got, want.reshape(32, 32), atol=1e-6)
    assert not torch.equal(zero_point, zero_point.round())


def test_groups_with_zeros_keep_them():
    weight = torch.randn(8, 64)
    weight[:, 3], weight[5] = 0, 0
    grid = half_quadratic_grid(weight, SCHEME)
    assert torch.equal(grid.zero_point[:, 0], grid.zero_point[:, 0].round())
    assert not torch.equal(grid.zero_point[:, 1], grid.zero_point[:, 1].round())
    model = torch.nn.Sequential(torch.nn.Linear(64, 8, bias=False))
    model[0].weight.data.copy_(weight)
    fields = {"type": "half_quadratic", "weights": {"bits": 4, "group_size": 32}}
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model)
    with torch.no_grad():
        got = model(torch.eye(64)).T
    assert (got[:, 3] == 0).all()
    assert (got[5] == 0).all()


def test_a_symmetric_grid_is_refused():
    with pytest.raises(RecipeError, match="fits the zero point"):
        Recipe.load(recipe_of(1, q={"type": "half_quadratic", "weights": {"bits": 4, "symmetric": True}}))
