"""Stored weights, read back with plain arithmetic, are the weights that the layers compute with."""

import copy

import pytest
import torch
from sample_models import recipe_of
from torch import nn
from transformers.pytorch_utils import Conv1D

from paredown import Recipe, ScheduledManager
from paredown.framework.model.links import links_of, remove_links
from paredown.integrations.export.stored_weights import fold_batch_norm, store_weight
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer

LAYERS = {
    "linear": lambda: nn.Linear(12, 8),
    "convolution": lambda: nn.Conv2d(6, 8, 2, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(12, 8, (1, 3)),
    "transposed in groups": lambda: nn.ConvTranspose2d(12, 8, (1, 2), groups=2),
    "Conv1D": lambda: Conv1D(8, 12),
}
SCHEMES = [
    {},
    {"granularity": "tensor"},
    {"symmetric": False},
    {"bits": 4, "group_size": 4},
    {"bits": 4, "group_size": 4, "symmetric": False},
    {"block": [2, 4]},
]


def quantized(layer, scheme):
    model = nn.Sequential(layer)
    with torch.no_grad():
        layer.weight[1] *= 30
    ScheduledManager(Recipe.load(recipe_of(1, q={"type": "weight_quantization", "weights": scheme}))).apply(model)
    return layer, weight_quantizer(layer)


def dequantized(codes, scale, zero_point, axis, group, bits):
    """As the documentation of ONNX's DequantizeLinear has it, element by element of the scale."""
    if group:
        scale = scale.repeat_interleave(group, axis)
        zero_point = None if zero_point is None else zero_point.repeat_interleave(group, axis)
    elif scale.dim():
        across = [-1 if place == axis else 1 for place in range(codes.dim())]
        scale = scale.reshape(across)
        zero_point = None if zero_point is None else zero_point.reshape(across)
    return (codes.float() - (0 if zero_point is None else zero_point.float())) * scale


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_stored_weights_are_those_of_the_simulation(kind, scheme):
    torch.manual_seed(0)
    layer, link = quantized(LAYERS[kind](), scheme)
    want = link.quantized(layer, "weight").detach()
    for turned in (False, True) if layer.weight.dim() == 2 else (False,):
        read = copy.deepcopy(layer)
        stored = store_weight(read, weight_quantizer(read), "weight", turned).moved_to(read, "weight")
        assert torch.allclose(stored.spelled(read, "weight", dequantized), want, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "Conv1D"])
def test_a_batch_norm_is_folded_into_the_scales(kind, scheme):
    torch.manual_seed(0)
    layer, link = quantized(LAYERS[kind](), scheme)
    flat = isinstance(layer, nn.Linear)
    norm = (nn.BatchNorm1d(8) if flat else nn.BatchNorm2d(8)).eval()
    nn.init.normal_(norm.weight)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(4, 12) if flat else torch.randn(2, layer.in_channels, 5, 5)
    want = norm(layer(x)).detach()
    stored, bias = fold_batch_norm(layer, norm, store_weight(layer, link, "weight", turned=flat))
    remove_links(layer, links_of(layer))
    stored.moved_to(layer, "weight")
    with torch.no_grad():
        layer.weight.copy_(stored.spelled(layer, "weight", dequantized))
        layer.bias.copy_(bias)
        assert torch.allclose(layer(x), want, rtol=1e-4, atol=1e-4)
