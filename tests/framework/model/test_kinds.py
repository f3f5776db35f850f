"""transformers' Conv1D is pruned and decomposed as the linear layer that it is."""

import pytest
import torch
from sample_models import recipe_of
from torch import nn
from transformers.pytorch_utils import Conv1D

import paredown
from paredown import Recipe, ScheduledManager


class Block(nn.Module):
    """Two layers, linear or such that keep the transpose."""

    def __init__(self, transposed):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(16, 32), nn.Linear(32, 8)]
        self.layers = nn.ModuleList([_transposed(each) for each in layers] if transposed else layers)

    def forward(self, x):
        return self.layers[1](self.layers[0](x).relu())


def _transposed(linear):
    layer = Conv1D(linear.out_features, linear.in_features)
    layer.load_state_dict({"weight": linear.weight.t(), "bias": linear.bias})
    return layer


HALF = {"final_sparsity": 0.5}
TREATMENTS = [
    {"type": "magnitude_pruning", **HALF},
    {"type": "magnitude_pruning", "structure": "2:4", **HALF},
    {"type": "magnitude_pruning", "structure": {"block": [2, 4]}, "scope": "uniform_plus", **HALF},
    {"type": "magnitude_pruning", "structure": "channel", "scope": "local", **HALF},
    {"type": "wanda_pruning", **HALF},
    {"type": "wanda_pruning", "structure": "2:4"},
    {"type": "sparsegpt", **HALF},
    {"type": "sparsegpt", "structure": "2:4", "update_weights": True},
    {"type": "optimal_brain_compression", **HALF},
    {"type": "constant_sparsity"},
    {"type": "svd_decomposition", "rank": 4, "guard": "none"},
    {"type": "svd_decomposition", "rank": {"energy": 0.9}, "guard": "none", "activation_aware": True},
    {"type": "tensor_train_decomposition", "rank": 4, "guard": "none"},
]


@pytest.mark.parametrize("treatment", TREATMENTS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_a_layer_that_keeps_the_transpose_is_treated_as_the_linear_layer_that_it_is(treatment):
    x, results = torch.randn(256, 16, generator=torch.Generator().manual_seed(1)), []
    for transposed in (False, True):
        model = Block(transposed).eval()
        if treatment["type"] == "constant_sparsity":
            with torch.no_grad():
                model.layers[0].weight[0, 0] = model.layers[1].weight[0, 0] = 0
        ScheduledManager(Recipe.load(recipe_of(1, change=treatment))).apply(model, data=[(x,)], example_inputs=(x,))
        results.append(model(x))
        kept = isinstance(model.layers[0], Conv1D if transposed else nn.Linear)
        assert kept == ("decomposition" not in treatment["type"])
    assert torch.allclose(*results, atol=1e-4)


def test_a_decomposed_layer_is_rebuilt_from_a_checkpoint(tmp_path):
    model, x = Block(True).eval(), torch.randn(4, 16)
    recipe = Recipe.load(recipe_of(1, low={"type": "svd_decomposition", "rank": 4, "guard": "none"}))
    manager = ScheduledManager(recipe)
    manager.apply(model)
    paredown.save(tmp_path / "low.pt", model, [], manager)
    assert torch.equal(paredown.load(tmp_path / "low.pt", Block(True)).eval()(x), model(x))
