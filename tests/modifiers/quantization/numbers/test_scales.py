"""Weights' grids against float64 by brute force, against compressed-tensors, and against onnxruntime."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from paredown.modifiers.quantization.numbers.fake_quantize import fake_quantize, quantize
from paredown.modifiers.quantization.numbers.scales import SHRINKING, affine_parameters, weight_parameters
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme, WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import misfit, spread, view_for


def blocks_of(weight, scheme):
    """The pieces that share a scale, as index tensors into the flat weight, by plain loops."""
    index = torch.arange(weight.numel()).reshape(weight.shape)
    if scheme.granularity == "tensor":
        return [index.flatten()]
    if scheme.granularity == "channel":
        return [row.flatten() for row in index.unbind(0)]
    rows = index.reshape(weight.shape[0], -1)
    if scheme.granularity == "group":
        return [row[at : at + scheme.group_size] for row in rows for at in range(0, rows.shape[1], scheme.group_size)]
    high, wide = scheme.block
    return [
        rows[top : top + high, left : left + wide].flatten()
        for top in range(0, rows.shape[0], high)
        for left in range(0, rows.shape[1], wide)
    ]


def on_grid(weight, scheme):
    scale, zero_point = (spread(part, scheme) for part in weight_parameters(weight, scheme))
    return fake_quantize(view_for(weight, scheme), scale, zero_point, scheme).reshape(weight.shape)


schemes = st.builds(
    lambda bits, symmetric, narrow, sharing: WeightScheme(bits=bits, symmetric=symmetric, narrow=narrow, **sharing),
    st.integers(2, 8),
    st.booleans(),
    st.booleans(),
    st.sampled_from(
        [{"granularity": "tensor"}, {"granularity": "channel"}, {"group_size": 4}, {"group_size": 8}, {"block": (2, 4)}]
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    schemes,
    st.sampled_from([(4, 8), (2, 2, 2, 2), (6, 8, 3, 1)]),
    st.integers(0, 2**31),
    st.sampled_from([0, 1e-6, 50]),
)
def test_every_block_lies_on_its_own_grid(scheme, shape, seed, spreading):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight.view(-1)[::3] = 0
    weight[0] *= spreading
    got = on_grid(weight, scheme).flatten()
    for block in blocks_of(weight, scheme):
        values, new = weight.flatten()[block], got[block]
        low, high = min(values.min().item(), 0), max(values.max().item(), 0)
        if scheme.symmetric:
            step = max(-low, high) / scheme.half_range
        else:
            step = (high - low) / (2**scheme.bits - 1)
        assert new.unique().numel() <= 2**scheme.bits
        assert new[values == 0].eq(0).all()
        assert torch.isfinite(new).all()
        slack = 0.5 if scheme.symmetric else 1.0  # an affine grid moves by half a step, to hold 0
        assert (values - new).abs().max() <= slack * step * (1 + 1e-9) + 1e-300
        if step > 1e-300:
            integers = new / step
            assert (integers - integers.round()).abs().max() < 1e-6


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("sharing", [{"granularity": "channel"}, {"granularity": "tensor"}, {"group_size": 16}])
def test_least_squares_is_the_best_of_its_candidates(symmetric, sharing):
    torch.manual_seed(0)
    weight = torch.randn(5, 32, dtype=torch.float64) ** 3
    scheme = WeightScheme(bits=3, symmetric=symmetric, observer="mse", **sharing)
    got = on_grid(weight, scheme).flatten()
    plain = scheme.model_copy(update={"observer": "minmax"})
    for block in blocks_of(weight, scheme):
        values = weight.flatten()[block]
        errors = []
        for share in SHRINKING:
            low, high = min(values.min(), torch.tensor(0.0)) * share, max(values.max(), torch.tensor(0.0)) * share
            scale, zero_point = affine_parameters(low, high, plain)
            errors.append((fake_quantize(values, scale, zero_point, plain) - values).square().sum().item())
        assert (got[block] - values).square().sum().item() == pytest.approx(min(errors), rel=1e-9)
    assert (got - weight.flatten()).square().sum() < (
        on_grid(weight, plain).flatten() - weight.flatten()
    ).square().sum()


@pytest.mark.parametrize("symmetric", [True, False])
def test_percentiles_cut_off_what_they_say(symmetric):
    weight = torch.arange(1, 1001, dtype=torch.float64).reshape(2, 500) - 250
    scheme = WeightScheme(bits=8, symmetric=symmetric, observer="percentile", percentile=99)
    scale, zero_point = weight_parameters(weight, scheme)
    for row, s, z in zip(weight, scale.flatten(), zero_point.flatten(), strict=True):
        ordered = (row.abs() if symmetric else row).sort().values
        if symmetric:
            assert s.item() * 127 == pytest.approx(ordered[math.ceil(0.99 * 500) - 1].item())
        else:
            low, high = min(ordered[2].item(), 0), max(ordered[-3].item(), 0)
            assert s.item() * 255 == pytest.approx(high - low)
            assert z.item() == round(-low / s.item())


def test_scales_that_are_powers_of_two_or_fp8():
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    mx = WeightScheme(format="fp4_e2m1", group_size=32, scales="power_of_two")
    scale, _ = weight_parameters(weight, mx)
    largest = weight.reshape(16, 2, 32).abs().amax(2)
    assert torch.equal(scale, torch.exp2(torch.floor(torch.log2(largest)) - 2))
    assert mx.bits == 4
    nv = WeightScheme(format="fp4_e2m1", group_size=16, scales="fp8_e4m3")
    scale, _ = weight_parameters(weight, nv)
    factor = weight.reshape(16, 4, 16).abs().amax() / 6 / 448
    assert torch.allclose((scale / factor).to(torch.float8_e4m3fn).float(), scale / factor, rtol=1e-6)
    assert scale.unique().numel() > 8
    integers = WeightScheme(bits=4, group_size=16, scales="power_of_two")
    scale, _ = weight_parameters(weight, integers)
    wanted = weight.reshape(16, 4, 16).abs().amax(2) / 7
    assert ((scale >= wanted) & (scale / 2 < wanted)).all()
    assert torch.equal(scale.log2().round(), scale.log2())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [None, 32])
def test_as_compressed_tensors_computes_it(bits, symmetric, group):
    quantization = pytest.importorskip("compressed_tensors.quantization")
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize as theirs
    from compressed_tensors.quantization.utils import calculate_qparams

    torch.manual_seed(0)
    weight = torch.randn(8, 64)
    strategy = "group" if group else "channel"
    arguments = quantization.QuantizationArgs(num_bits=bits, symmetric=symmetric, strategy=strategy, group_size=group)
    view = weight.reshape(8, -1, group or 64)
    scale, zero_point = calculate_qparams(view.amin(2), view.amax(2), arguments)
    sharing = {"group_size": group} if group else {"granularity": "channel"}
    scheme = WeightScheme(bits=bits, symmetric=symmetric, narrow=False, **sharing)
    ours, _ = weight_parameters(weight, scheme)
    assert torch.allclose(ours.reshape(scale.shape), scale, rtol=1e-6)
    assert torch.allclose(on_grid(weight, scheme), theirs(weight, scale, zero_point, arguments), atol=1e-6)


def test_as_onnxruntime_computes_it():
    """QuantizeLinear of the exported scale and zero point: the same integers, to the last."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    helper, proto = onnx.helper, onnx.TensorProto
    torch.manual_seed(0)
    x = torch.randn(50_000) * 2
    scale, zero_point = affine_parameters(torch.tensor(-1.3), torch.tensor(4.1), ActivationScheme())
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    graph = helper.make_graph(
        [node],
        "quantize",
        [helper.make_tensor_value_info("x", proto.FLOAT, [x.numel()])],
        [helper.make_tensor_value_info("q", proto.UINT8, [x.numel()])],
        [
            helper.make_tensor("s", proto.FLOAT, [], [scale.item()]),
            helper.make_tensor("z", proto.UINT8, [], [int(zero_point)]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"x": x.numpy()})
    assert np.array_equal(theirs, quantize(x, scale, zero_point, ActivationScheme()).numpy())


def test_sizes_that_do_not_divide_are_told():
    assert "576" in misfit((3, 576), WeightScheme(group_size=128))
    assert misfit((3, 576), WeightScheme(group_size=64)) is None
    assert "blocks of 128 x 128" in misfit((100, 256), WeightScheme(granularity="block"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"granularity": "channel", "group_size": 8}, "group_size is for granularity: group"),
        ({"granularity": "group", "block": [2, 2]}, "block is for granularity: block"),
        ({"format": "fp8_e4m3", "bits": 4}, "has 8 bits"),
        ({"format": "fp8_e4m3", "symmetric": False}, "no zero point"),
        ({"percentile": 99.0}, "observer: percentile"),
        ({"group_size": 0}, "greater than or equal to 1"),
    ],
)
def test_schemes_that_contradict_themselves(fields, told):
    with pytest.raises(ValidationError, match=told):
        WeightScheme(**fields)


def test_sizes_imply_their_granularity():
    assert WeightScheme(bits=4, group_size=64).granularity == "group"
    assert WeightScheme(block=(64, 64)).granularity == "block"
    assert WeightScheme(granularity="group").group_size == 128
    assert WeightScheme(format="fp4_e2m1", granularity="group").group_size == 32
    assert ActivationScheme(format="fp8_e4m3").symmetric


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_scales_of_float16(symmetric, observer):
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    plain = WeightScheme(bits=4, group_size=32, symmetric=symmetric, observer="minmax")
    half = WeightScheme(bits=4, group_size=32, symmetric=symmetric, observer=observer, scales="float16")
    scale, _ = weight_parameters(weight, half)
    assert torch.equal(scale, scale.half().float())
    if observer == "minmax":
        assert torch.equal(scale, weight_parameters(weight, plain)[0].half().float())


def test_zeros_and_the_smallest_have_a_scale_of_float16_too():
    half = WeightScheme(bits=4, group_size=32, scales="float16")
    scale, _ = weight_parameters(torch.tensor([[0.0], [1e-12]]).expand(2, 32), half)
    assert torch.equal(scale, torch.full((2, 1), 2.0**-24))
