"""Fake quantization against a float64 reference and against its definition by plain autograd."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from paredown.modifiers.quantization.numbers.fake_quantize import dequantize, fake_quantize, quantize, round_through
from paredown.modifiers.quantization.numbers.scales import affine_parameters, weight_scale
from paredown.modifiers.quantization.numbers.scheme import (
    ActivationScheme,
    QuantizationScheme,
    WeightScheme,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SCHEMES = [QuantizationScheme(bits=bits, symmetric=symmetric) for bits in (2, 3, 4, 8) for symmetric in (True, False)]


def reference_integers(x, scale, zero_point, scheme):
    """In float64; None where the quotient is too near to a tie for a float32 division to decide."""
    quotient = x.double() / scale.double()
    near_tie = ((quotient - quotient.floor()) - 0.5).abs() < 1e-4
    return (quotient.round() + zero_point).clamp(scheme.lowest, scheme.highest), near_tie


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-2.0, 0.0), (0.5, 2.0), (-1e-3, 1e-3)])
def test_integers_and_values(dtype, scheme, low, high):
    torch.manual_seed(0)
    x = ((torch.rand(4000, dtype=torch.float64) * 1.4 - 0.2) * (high - low) + low).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale, zero_point = affine_parameters(torch.tensor(low, dtype=wide), torch.tensor(high, dtype=wide), scheme)
    expected, near_tie = reference_integers(x, scale, zero_point, scheme)
    integers = quantize(x, scale, zero_point, scheme)
    assert torch.equal(integers.double()[~near_tie], expected[~near_tie])
    assert ((integers.double() - expected).abs() <= 1).all()
    fake = fake_quantize(x, scale, zero_point, scheme)
    assert fake.dtype == dtype
    assert torch.equal(fake, dequantize(integers, scale, zero_point).to(dtype))


@settings(max_examples=300, deadline=None)
@given(
    low=st.floats(-1e6, 1e6, width=32),
    width=st.floats(0, 1e6, width=32),
    scheme=st.sampled_from(SCHEMES),
)
def test_zero_is_on_every_grid(low, width, scheme):
    scale, zero_point = affine_parameters(torch.tensor(low), torch.tensor(low + width), scheme)
    assert scale > 0
    assert math.isfinite(scale)
    assert scheme.lowest <= int(zero_point) <= scheme.highest
    assert fake_quantize(torch.zeros(1), scale, zero_point, scheme).item() == 0.0


def test_the_affine_range_is_reached_to_half_a_step():
    scheme = ActivationScheme()
    scale, zero_point = affine_parameters(torch.tensor(-0.7), torch.tensor(1.9), scheme)
    ends = fake_quantize(torch.tensor([-9.0, 9.0]), scale, zero_point, scheme)
    assert torch.allclose(ends, torch.tensor([-0.7, 1.9]), atol=float(scale) / 2 + 1e-7)
    assert int(affine_parameters(torch.tensor(0.0), torch.tensor(5.0), scheme)[1]) == 0


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3), (7,)])
def test_weights_use_the_whole_grid(granularity, dtype, shape):
    torch.manual_seed(1)
    weight = torch.randn(shape).to(dtype)
    scheme = WeightScheme(granularity=granularity, bits=4)
    scale = weight_scale(weight, scheme)
    whole = weight.double()
    largest = whole.flatten(1).abs().amax(1) if granularity == "channel" and whole.dim() > 1 else whole.abs()
    expected = (largest if granularity == "channel" else largest.max()) / 7
    assert torch.allclose(scale.double().flatten(), expected.flatten(), rtol=1e-6)
    fake = round_through(weight, scale, scheme)
    assert torch.equal(fake, dequantize(quantize(weight, scale, 0, scheme), scale, 0).to(dtype))
    assert int(quantize(weight, scale, 0, scheme).abs().max()) == 7


def test_zeros_and_channels_of_zeros_stay_zero():
    weight = torch.randn(4, 8)
    weight[1] = 0
    weight[:, ::2] = 0
    scale = weight_scale(weight, WeightScheme())
    fake = round_through(weight, scale, WeightScheme())
    assert torch.equal(fake == 0, (weight == 0) | (quantize(weight, scale, 0, WeightScheme()) == 0))
    assert (fake[:, ::2] == 0).all()
    assert torch.isfinite(fake).all()
    assert weight_scale(torch.empty(0, 3), WeightScheme()).shape == (0, 1)


def test_tiny_weights_do_not_overflow():
    weight = torch.tensor([[1e-44, -3e-45], [1e-38, 0.0]])
    fake = round_through(weight, weight_scale(weight, WeightScheme()), WeightScheme())
    assert torch.isfinite(fake).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [False, True])
def test_gradients_are_those_of_the_definition(dtype, channels):
    scheme = ActivationScheme()
    low, high = (
        (torch.tensor([-1.0] * 3), torch.tensor([2.0] * 3)) if channels else (torch.tensor(-1.0), torch.tensor(2.0))
    )
    scale, zero_point = affine_parameters(low, high, scheme)
    bottom, top = (0 - zero_point) * scale, (255 - zero_point) * scale
    x = torch.randn(50, 3).to(dtype)
    ends = torch.stack([bottom.expand(3), top.expand(3)]).to(dtype)
    x = torch.cat([x * 2, ends, torch.nextafter(ends.float(), torch.tensor(math.inf)).to(dtype)]).requires_grad_()
    upstream = torch.randn_like(x)
    fake_quantize(x, scale, zero_point, scheme).backward(upstream)
    wide = x.detach() if dtype == torch.float64 else x.detach().float()
    limit = (lambda t: t.to(dtype)) if channels else (lambda t: t)
    expected = upstream * ((wide >= limit(bottom)) & (wide <= limit(top)))
    assert torch.equal(x.grad, expected)


def test_the_gradient_of_a_weight_passes_through():
    weight = torch.randn(4, 5, requires_grad=True)
    upstream = torch.randn(4, 5)
    round_through(weight, weight_scale(weight, WeightScheme()), WeightScheme()).backward(upstream)
    assert torch.equal(weight.grad, upstream)


@pytest.mark.slow
def test_compiled_whole_and_equal():
    scheme = ActivationScheme()
    scale, zero_point = affine_parameters(torch.tensor(-1.0), torch.tensor(2.0), scheme)

    weights = WeightScheme()

    def layer(x, weight):
        fake = round_through(weight, weight_scale(weight, weights), weights)
        return fake_quantize(x, scale, zero_point, scheme) @ fake

    compiled = torch.compile(layer, fullgraph=True)
    x, weight = torch.randn(30, 8) * 2, torch.randn(8, 4)
    results = []
    for function in (layer, compiled):
        inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = function(*inputs)
        out.square().sum().backward()
        results.append((out.detach(), inputs[0].grad, inputs[1].grad))
    for eager, fused in zip(*results, strict=True):
        assert torch.allclose(eager, fused, atol=1e-5)


@pytest.mark.parametrize(
    "field",
    [
        {"bits": 1},
        {"bits": 9},
        {"bits": 4.0},
        {"granularity": "chanel"},
        {"granularity": "channel", "group_size": 8},
        {"format": "fp8_e4m3", "bits": 4},
        {"sym": True},
    ],
)
def test_impossible_schemes(field):
    with pytest.raises(ValidationError):
        WeightScheme(**field)
