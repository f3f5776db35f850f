"""At full rank every decomposition of every kind of layer gives what the layer gave."""

import pytest
import torch
from decomposing import METHODS, manager_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
FORMS = [("svd_decomposition", {"convolution": "channel"}), *((method, {}) for method in METHODS)]


@st.composite
def convolutions(draw):
    axes = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(2, 4)), groups * draw(st.integers(1, 4))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    transposed = draw(st.booleans())
    stride, dilation = each(1, 2), each(1, 2)
    fields = {"kernel_size": each(1, 3), "stride": stride, "dilation": dilation, "padding": each(0, 1)}
    fields |= {"groups": groups, "bias": draw(st.booleans()), "dtype": torch.float64}
    if transposed:
        most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        fields["output_padding"] = tuple(draw(st.integers(0, m)) for m in most)
        return TRANSPOSED[axes](inputs, outputs, **fields), axes
    fields["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "circular", "replicate"]))
    return CONVOLUTIONS[axes](inputs, outputs, **fields), axes


@pytest.mark.parametrize(("method", "more"), FORMS)
@settings(max_examples=25, deadline=None)
@given(drawn=convolutions(), seed=st.integers(0, 99))
def test_convolutions(method, more, drawn, seed):
    torch.manual_seed(seed)
    layer, axes = drawn
    nn.init.normal_(layer.weight)
    model, x = nn.Sequential(layer), torch.randn(2, layer.in_channels, *(7,) * axes, dtype=torch.float64)
    want = model(x)
    manager_of(method, 10**6, **more).apply(model)
    assert type(model[0]) is nn.Sequential
    assert torch.allclose(model(x), want, atol=1e-9)
    assert {type(inner).__module__ for inner in model[0]} == {"torch.nn.modules.conv"}


@pytest.mark.parametrize("method", ["svd_decomposition", "tensor_train_decomposition"])
@settings(max_examples=25, deadline=None)
@given(inputs=st.integers(2, 40), outputs=st.integers(2, 40), bias=st.booleans())
def test_linear_and_embedding(method, inputs, outputs, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, inputs, padding_idx=3), nn.Linear(inputs, outputs, bias)).double()
    indices = torch.arange(30)
    want = model(indices)
    manager_of(method, 10**6).apply(model)
    assert not isinstance(model[0], nn.Embedding)
    assert not isinstance(model[1], nn.Linear)
    assert torch.allclose(model(indices), want, atol=1e-9)
    assert model[0](torch.tensor(3)).abs().max() < 1e-12


@pytest.mark.parametrize("method", ["svd_decomposition", "tensor_train_decomposition"])
def test_attention_inside_of_transformers(method):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 4, 20, dropout=0.0, batch_first=True).double()
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 5, 12, dtype=torch.float64), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    want = model(x, src_key_padding_mask=padding)
    manager_of(method, 10**6, targets=["MultiheadAttention", "Linear"]).apply(model)
    got = model(x, src_key_padding_mask=padding)
    assert torch.allclose(got[~padding], want[~padding], atol=1e-9)
    assert not any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    assert not isinstance(model.layers[0].linear1, nn.Linear)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(method, dtype):
    model = nn.Sequential(nn.Conv2d(8, 12, 3)).to(dtype)
    manager_of(method, 4).apply(model)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert len(list(model.parameters())) > 2


@pytest.mark.parametrize("method", METHODS)
def test_mode_grad_and_hooks_are_kept(method):
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3)).eval()
    model[0].weight.requires_grad_(False)
    calls, bias = [], model[0].bias
    model[0].register_forward_hook(lambda *_: calls.append(1))
    manager_of(method, 3).apply(model)
    model(torch.randn(1, 4, 8, 8))
    assert calls == [1]
    assert not any(module.training for module in model.modules())
    assert model[0][-1].bias is bias
    assert bias.requires_grad
    assert not any(layer.weight.requires_grad for layer in model[0])
    assert all(layer.weight.requires_grad for layer in model[1])


def test_the_memory_format_is_kept_and_complex_weights_are_left_alone():
    model = nn.Sequential(nn.Conv2d(16, 32, 3)).to(memory_format=torch.channels_last)
    manager_of("tucker_decomposition", 4).apply(model)
    assert model[0][1].weight.is_contiguous(memory_format=torch.channels_last)
    other = nn.Sequential(nn.Linear(4, 4, dtype=torch.complex64))
    assert "left alone: weights of complex numbers" in str(manager_of("svd_decomposition", 2).plan(other))


class Upscaling(nn.Module):
    """Asks a layer for more than its forward has."""

    def __init__(self):
        super().__init__()
        self.up, self.other = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.up(self.other(x), output_size=(17, 17))


def test_what_the_model_does_not_run_with_is_left_alone():
    model, x = Upscaling(), torch.randn(1, 8, 10, 10)
    manager = manager_of("svd_decomposition", 3)
    assert "does not run with other layers in its place: TypeError" in str(manager.plan(model, example_inputs=(x,)))
    manager.apply(model, example_inputs=(x,))
    assert isinstance(model.up, nn.ConvTranspose2d)
    assert isinstance(model.other, nn.Sequential)
    model(x)
