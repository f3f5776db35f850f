"""SmoothQuant by its formula, and by what quantization gains from it."""

import copy

import pytest
import torch
from sample_models import mlp, recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager, ScheduleError
from paredown.modifiers.quantization.smoothquant import smoothing


class Normalised(nn.Module):
    """Two layers behind a normalisation, and one behind the residual stream."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.left, self.right, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 8)
        with torch.no_grad():
            self.norm.weight[3], self.norm.weight[11] = 60, 30

    def forward(self, x):
        y = self.norm(x)
        return self.last(x + self.left(y) * torch.sigmoid(self.right(y)))


def apply(model, data, **modifiers):
    return ScheduledManager(Recipe.load(recipe_of(1, **modifiers))).apply(model, data=data)


def test_the_formula():
    largest, weights = (
        torch.tensor([4.0, 1.0, 0.0]),
        [torch.tensor([[1.0, -4.0, 1.0]]), torch.tensor([[0.5, 2.0, 0.0]])],
    )
    assert smoothing(largest, weights, 0.5).tolist() == pytest.approx([2.0, 0.5, 1.0])
    assert smoothing(largest, weights, 1.0).tolist() == pytest.approx([4.0, 1.0, 1.0])
    assert smoothing(largest, weights, 0.0).tolist() == pytest.approx([1.0, 0.25, 1.0])


def test_the_function_stays_and_the_factor_is_the_papers():
    torch.manual_seed(0)
    model = Normalised()
    data = [(torch.randn(32, 16),) for _ in range(4)]
    before = copy.deepcopy(model)
    apply(model, data, smooth={"type": "smoothquant"})
    for (x,) in data:
        assert torch.allclose(model(x), before(x), rtol=1e-4, atol=1e-4)
    inputs = torch.cat([before.norm(x) for (x,) in data]).abs().amax(0)
    columns = torch.cat([before.left.weight, before.right.weight]).abs().amax(0)
    s = (inputs / columns).sqrt()
    assert torch.allclose(model.norm.weight, before.norm.weight / s, rtol=1e-4)
    assert torch.allclose(model.left.weight, before.left.weight * s, rtol=1e-4)
    assert torch.equal(model.last.weight, before.last.weight)


def test_activations_with_outliers_quantize_better_after_it():
    torch.manual_seed(0)
    start = Normalised()
    data = [(torch.randn(64, 16),) for _ in range(4)]
    want = start(data[0][0])
    errors = []
    for more in ({}, {"smooth": {"type": "smoothquant"}}):
        model = copy.deepcopy(start)
        apply(model, data, **more, quantize={"type": "static_quantization", "ignore": ["last"]})
        errors.append((model(data[0][0]) - want).norm().item())
    assert errors[1] < 0.7 * errors[0]


def test_what_cannot_take_a_factor_is_named():
    model = Normalised()
    plan = ScheduledManager(Recipe.load(recipe_of(1, smooth={"type": "smoothquant"}))).plan(
        model, example_inputs=(torch.randn(2, 16),)
    )
    refused = {line.layer: line.refused for line in plan.modifiers[0].layers}
    assert refused == {"left": False, "right": False, "last": True}
    with pytest.raises(ScheduleError, match="needs batches"):
        apply(mlp(), None, smooth={"type": "smoothquant"})
