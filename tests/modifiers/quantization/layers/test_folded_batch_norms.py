"""Batch-norm folding: where it changes the codes it is simulated, where it does not it need not be."""

import copy

import pytest
import torch
from sample_models import recipe_of
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import paredown
from paredown import Recipe, ScheduledManager
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer
from paredown.modifiers.quantization.numbers.fake_quantize import fake_quantize, quantize
from paredown.modifiers.quantization.numbers.scales import weight_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme


def build(transposed=False):
    torch.manual_seed(0)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = nn.Sequential(kind(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    norm = model[1]
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 4)
    return model.eval()


def quantized(model, x, **fields):
    recipe = Recipe.load(recipe_of(1, q={"type": "weight_quantization", **fields}))
    ScheduledManager(recipe).apply(model, example_inputs=(x,))
    return model


@pytest.mark.parametrize("fields", [{"granularity": "channel"}, {"group_size": 9}])
def test_codes_within_a_channel_are_the_same_before_and_after(fields):
    model = build()
    folded = fuse_conv_bn_eval(copy.deepcopy(model[0]), copy.deepcopy(model[1]))
    scheme = WeightScheme(bits=6, **fields)
    sign = model[1].weight.detach().sign()[:, None, None, None]
    codes = []
    for weight in (model[0].weight * sign, folded.weight):
        view = weight.reshape(8, -1, 9) if "group_size" in fields else weight
        scale = weight_parameters(weight, scheme)[0]
        codes.append(quantize(view, scale[..., None] if "group_size" in fields else scale, 0, scheme).int())
    assert (codes[0] - codes[1]).abs().max() <= 1  # by one at a tie that float32 decides otherwise
    assert (codes[0] != codes[1]).float().mean() < 0.01


@pytest.mark.parametrize("transposed", [False, True])
def test_per_tensor_the_layer_computes_with_the_folded_weights_grid(transposed):
    model, x = build(transposed), torch.randn(2, 3, 8, 8)
    folded = fuse_conv_bn_eval(copy.deepcopy(model[0]), copy.deepcopy(model[1]), transpose=transposed)
    scheme = WeightScheme(bits=4, granularity="tensor")
    with torch.no_grad():
        folded.weight.copy_(fake_quantize(folded.weight, *weight_parameters(folded.weight, scheme), scheme))
    want = folded(x)
    quantized(model, x, targets=["0"], weights={"bits": 4, "granularity": "tensor"})
    assert torch.allclose(model[:2](x), want, atol=1e-4)
    twin = copy.deepcopy(model)
    assert weight_quantizer(twin[0]).norm is twin[1]
    assert torch.equal(twin(x), model(x))


def test_it_trains_and_resumes(tmp_path):
    def begin():
        model = build().train()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        fields = {"type": "quantization_aware_training", "weights": {"bits": 4, "granularity": "tensor"}}
        manager = ScheduledManager(Recipe.load(recipe_of(2, q={**fields, "freeze_batch_norm": 1})))
        manager.modify(model, optimizer, 4, example_inputs=(torch.randn(2, 3, 8, 8),))
        return model, optimizer, manager

    def go(model, optimizer, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(4, 3, 8, 8, generator=generator)).square().mean().backward()
            optimizer.step()

    whole = begin()
    go(*whole[:2], 0, 8)
    parts = begin()
    go(*parts[:2], 0, 5)
    paredown.save(tmp_path / "c.pt", *parts)
    again = begin()
    paredown.resume(tmp_path / "c.pt", *again)
    go(*again[:2], 5, 8)
    assert all(torch.equal(v, whole[0].state_dict()[name]) for name, v in again[0].state_dict().items())
    whole[2].finalize()


def test_it_exports(tmp_path):
    pytest.importorskip("onnxruntime")
    from paredown.integrations.onnx import export

    model, x = build(), torch.randn(4, 3, 8, 8)
    fields = {"type": "static_quantization", "weights": {"bits": 8, "granularity": "tensor"}}
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model, data=[(x,)], example_inputs=(x,))
    made = export(model, (x,), tmp_path / "m.onnx", repetitions=0)
    assert made.agreement.difference <= made.agreement.step
    assert made.operators.get("QLinearConv", 0) >= 1


def test_a_linear_layer_is_folded_alike():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)),
        torch.randn(9, 8),
    )
    nn.init.normal_(model[1].weight)
    model[1].running_var.uniform_(0.1, 4)
    model[1].running_mean.normal_()
    model.eval()
    folded = fuse_linear_bn_eval(copy.deepcopy(model[0]), copy.deepcopy(model[1]))
    scheme = WeightScheme(bits=4, granularity="tensor")
    with torch.no_grad():
        folded.weight.copy_(fake_quantize(folded.weight, *weight_parameters(folded.weight, scheme), scheme))
    want = folded(x)
    quantized(model, x, weights={"bits": 4, "granularity": "tensor"})
    assert torch.allclose(model[1](model[0](x)), want, atol=1e-5)
