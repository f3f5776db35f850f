"""Factors move before weights are on a grid, never after."""

import pytest
import torch
from sample_models import recipe_of
from torch import nn

from paredown import ParedownError, Recipe, ScheduledManager

MOVERS = [{"type": "smoothquant"}, {"type": "equalization"}, {"type": "awq", "round": False, "weights": {"bits": 4}}]


def model_and_data():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8))
    return model, [(torch.randn(32, 16),)]


def apply(model, data, **modifiers):
    ScheduledManager(Recipe.load(recipe_of(1, **modifiers))).apply(model, data=data, example_inputs=data[0])


@pytest.mark.parametrize("mover", MOVERS, ids=lambda fields: fields["type"])
@pytest.mark.parametrize("at_once", [True, False])
def test_weights_on_a_grid_are_not_scaled(mover, at_once):
    model, data = model_and_data()
    quantize = {"type": "weight_quantization", "weights": {"bits": 4, "granularity": "tensor"}}
    if not at_once:
        apply(model, data, quantize=quantize)
    want = model(data[0][0])
    with pytest.raises(ParedownError, match="move.*(1|3) are on (a|the) grid.*nothing was changed"):
        apply(model, data, **({"quantize": quantize} if at_once else {}), move=mover)
    assert torch.equal(model(data[0][0]), want)
