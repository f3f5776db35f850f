"""Bias correction: the mean of every channel is what the unrounded layer gives, on the data it was taken from."""

import copy

import torch
from sample_models import recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager


def apply(model, data, **modifiers):
    return ScheduledManager(Recipe.load(recipe_of(1, **modifiers))).apply(
        model, data=data, example_inputs=(data[0][0],)
    )


def test_the_mean_of_a_layer_is_exact_again():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8)).double()
    data = [(torch.rand(64, 16, dtype=torch.float64) + 1,) for _ in range(5)]
    before = copy.deepcopy(model)
    quantize = {"type": "static_quantization", "weights": {"bits": 3}}
    apply(model, data, quantize=quantize, correct={"type": "bias_correction"})
    x = torch.cat([x for (x,) in data])
    assert torch.allclose(model(x).mean(0), before(x).mean(0), atol=1e-9)
    assert not torch.allclose(model(x), before(x), atol=1e-3)


def test_without_a_bias_the_batch_norm_takes_it():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3)
    ).eval()
    data = [(torch.rand(8, 3, 9, 9) + 1,) for _ in range(4)]
    quantize = {"type": "weight_quantization", "weights": {"bits": 3}}
    means = {}
    for name, more in (
        ("dense", {}),
        ("rounded", {"q": quantize}),
        ("corrected", {"q": quantize, "c": {"type": "bias_correction"}}),
    ):
        other = copy.deepcopy(model)
        if more:
            apply(other, data, **more)
        means[name] = [part(torch.cat([x for (x,) in data])).mean((0, 2, 3)) for part in (other[:2], other)]
    for place in (0, 1):
        shift = (means["rounded"][place] - means["dense"][place]).norm()
        assert (means["corrected"][place] - means["dense"][place]).norm() < 0.5 * shift
    assert (means["corrected"][0] - means["dense"][0]).norm() < 1e-4 * means["dense"][0].norm()


def test_a_layer_with_neither_is_named_and_nothing_is_done_to_what_is_not_quantized():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4))
    before = copy.deepcopy(model.state_dict())
    recipe = Recipe.load(recipe_of(1, c={"type": "bias_correction"}))
    assert "0                                left alone: it has no bias" in str(ScheduledManager(recipe).plan(model))
    ScheduledManager(recipe).apply(model, data=[(torch.randn(4, 4),)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
