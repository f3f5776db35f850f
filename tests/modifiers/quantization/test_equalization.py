"""Cross-layer equalization: the function stays, the ranges become alike, quantization per tensor gains."""

import copy

import torch
from sample_models import recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager


def uneven(norms=True):
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in ((3, 8), (8, 12), (12, 6)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norms)]
        layers += [nn.BatchNorm2d(outputs)] if norms else []
        layers += [nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(torch.logspace(-1.5, 1.5, module.out_channels)[:, None, None, None])
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.1, 3)
                module.bias.normal_()
    return model.eval()


def apply(model, x, **modifiers):
    return ScheduledManager(Recipe.load(recipe_of(1, **modifiers))).apply(model, data=[(x,)], example_inputs=(x,))


def test_the_function_stays():
    for norms in (True, False):
        model, x = uneven(norms), torch.randn(4, 3, 8, 8)
        want = model(x).detach()
        apply(model, x, even={"type": "equalization"})
        assert torch.allclose(model(x), want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


def test_the_ranges_of_neighbours_meet():
    model, x = uneven(norms=False), torch.randn(2, 3, 8, 8)
    apply(model, x, even={"type": "equalization"})
    for first, second in ((model[0], model[2]), (model[2], model[4])):
        out = first.weight.abs().amax((1, 2, 3))
        into = second.weight.abs().amax((0, 2, 3))
        assert torch.allclose(out, into, rtol=0.02)


def test_weights_per_tensor_gain():
    x = torch.randn(8, 3, 8, 8)
    errors = []
    for more in ({}, {"even": {"type": "equalization"}}):
        model = uneven(norms=False)
        want = copy.deepcopy(model)(x)
        quantize = {"type": "weight_quantization", "weights": {"bits": 6, "granularity": "tensor"}}
        apply(model, x, **more, quantize=quantize)
        errors.append(((model(x) - want).norm() / want.norm()).item())
    assert errors[1] < 0.3 * errors[0]


def test_the_plan_names_both_sides():
    plan = ScheduledManager(Recipe.load(recipe_of(1, even={"type": "equalization"}))).plan(
        uneven(norms=False), example_inputs=(torch.randn(1, 3, 8, 8),)
    )
    lines = {line.layer: (line.refused, line.effect) for line in plan.modifiers[0].layers}
    assert lines["2"] == (False, "equalized with 0")
    assert lines["0"][0]
