"""Every kind of layer computes with quantized weights: what a plain copy with the weights replaced by hand computes."""

import copy

import pytest
import torch
from sample_models import recipe_of
from torch import nn
from transformers.pytorch_utils import Conv1D

from paredown import Recipe, ScheduledManager
from paredown.framework.model.kinds import TRANSPOSED
from paredown.modifiers.quantization.layers.kinds import LAYERS, weight_names
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer
from paredown.modifiers.quantization.numbers.fake_quantize import fake_quantize
from paredown.modifiers.quantization.numbers.scales import weight_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme


class Recurrent(nn.Module):
    def __init__(self, kind, **more):
        super().__init__()
        self.core = kind(6, 8, 2, batch_first=True, **more)

    def forward(self, x):
        return self.core(x)[0]


class Attention(nn.Module):
    def __init__(self, **more):
        super().__init__()
        self.core = nn.MultiheadAttention(8, 2, batch_first=True, **more)

    def forward(self, x):
        return self.core(x, x, x)[0]


KINDS = {
    "linear": (lambda: nn.Sequential(nn.Linear(8, 5)), (4, 8)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, groups=2)), (2, 4, 9)),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect")), (2, 4, 9, 9)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 2)), (2, 2, 5, 5, 5)),
    "transposed1d": (lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 3)), (2, 4, 9)),
    "transposed2d": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)), (2, 4, 5, 5)),
    "transposed1d in groups": (lambda: nn.Sequential(nn.ConvTranspose1d(6, 9, 3, groups=3)), (2, 6, 5)),
    "transposed3d": (lambda: nn.Sequential(nn.ConvTranspose3d(2, 4, 2)), (2, 2, 3, 3, 3)),
    "Conv1D": (lambda: nn.Sequential(Conv1D(5, 8)), (4, 8)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(20, 8, padding_idx=0)), None),
    "bag": (lambda: nn.Sequential(nn.EmbeddingBag(20, 8, mode="sum")), None),
    "lstm": (lambda: Recurrent(nn.LSTM, bidirectional=True), (3, 5, 6)),
    "lstm projected": (lambda: Recurrent(nn.LSTM, proj_size=4), (3, 5, 6)),
    "gru": (lambda: Recurrent(nn.GRU, bias=False), (3, 5, 6)),
    "rnn": (lambda: Recurrent(nn.RNN), (3, 5, 6)),
    "attention": (lambda: Attention(), (3, 5, 8)),
    "attention of other widths": (lambda: Attention(kdim=8, vdim=8), (3, 5, 8)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 5, 8)),
    "encoder, norm first": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), (3, 5, 8)),
}


def build(kind):
    torch.manual_seed(0)
    make, shape = KINDS[kind]
    return make().eval(), torch.randn(shape) if shape else torch.randint(0, 20, (4, 3))


def by_hand(model, scheme):
    """A plain copy whose weights were replaced."""
    plain = copy.deepcopy(model)
    with torch.no_grad():
        for module in plain.modules():
            for name in weight_names(module) if isinstance(module, LAYERS) else ():
                weight = module._parameters[name]
                rows = rows_of(module, weight)
                rounded = fake_quantize(rows, *weight_parameters(rows, scheme), scheme)
                weight.copy_(rows_of(module, rounded) if rows is not weight else rounded)
    return plain


def rows_of(module, weight):
    """A weight with a row for each output channel, channel by channel; the same exchange brings it back."""
    if isinstance(module, Conv1D):
        return weight.t()
    if not isinstance(module, TRANSPOSED):
        return weight
    groups = weight.chunk(module.groups)
    return torch.cat([group.transpose(0, 1) for group in groups])


def quantize(model, **fields):
    ScheduledManager(Recipe.load(recipe_of(1, q={"type": "weight_quantization", **fields}))).apply(model)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_are_the_quantized_ones(kind, symmetric):
    model, x = build(kind)
    before = model(x)
    scheme = WeightScheme(bits=4, symmetric=symmetric)
    want = by_hand(model, scheme).eval()(x)
    state = copy.deepcopy(model.state_dict())
    quantize(model, weights={"bits": 4, "symmetric": symmetric})
    with torch.no_grad():  # eval without gradients is where fused kernels read weights themselves
        got = model(x)
    assert torch.allclose(got, want, atol=1e-6)
    assert not torch.allclose(got, before, atol=1e-4)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    assert all(weight_quantizer(m) is not None for m in twin.modules() if isinstance(m, LAYERS))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_float_weights(kind):
    model, x = build(kind)
    quantize(model, weights={"bits": 8})
    model.train()(x).square().sum().backward()
    parameters = dict(model.named_parameters())
    assert all(parameter.grad is not None for parameter in parameters.values())
    assert all(parameter.is_leaf for parameter in parameters.values())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_padded_batch_of_an_encoder():
    """nn.TransformerEncoder takes a nested tensor where some of the batch is padding, in eval mode."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).eval()
    x, padding = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    want = by_hand(model, WeightScheme(bits=4))(x, src_key_padding_mask=padding)
    quantize(model, weights={"bits": 4})
    with torch.no_grad():
        got = model(x, src_key_padding_mask=padding)
    assert torch.allclose(got[~padding], want[~padding], atol=1e-5)


def test_release_brings_the_fast_path_back():
    model, x = build("encoder")
    recipe = Recipe.load(recipe_of(2, q={"type": "quantization_aware_training"}))
    manager = ScheduledManager(recipe)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager.modify(model, optimizer, 5)
    assert model.activation_relu_or_gelu == 0
    manager.release()
    assert model.activation_relu_or_gelu == 1
    assert type(model.self_attn) is nn.MultiheadAttention


def test_inputs_of_attention_and_recurrent_layers_are_quantized():
    for kind in ("attention", "lstm", "gru"):
        model, x = build(kind)
        plain = copy.deepcopy(model)
        fields = {"type": "static_quantization", "weights": None, "activations": {"bits": 4, "observer": "minmax"}}
        ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model, data=[(x,)])
        low, high = x.min(), x.max()
        step = (high - low) / 15
        zero = (-low / step).round()
        rounded = ((x / step).round() + zero).clamp(0, 15).sub(zero).mul(step)
        assert torch.allclose(model(x), plain(rounded), atol=1e-5)


def test_what_cannot_be_quantized_is_named():
    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return x @ self.matrix

    model = nn.Sequential(
        nn.Embedding(10, 4, max_norm=1.0), Custom(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    )
    plan = str(ScheduledManager(Recipe.load(recipe_of(1, q={"type": "weight_quantization"}))).plan(model))
    assert "left alone: max_norm rewrites its weight" in plan
    assert "left alone: its weight is computed" in plan
    assert "left as they are: 1 (Custom)" in plan


class Block(nn.Module):
    """A block of a transformer's kind, of linear layers or of such that keep the transpose."""

    def __init__(self, transposed):
        super().__init__()
        torch.manual_seed(0)
        self.norm, linear = nn.LayerNorm(16), [nn.Linear(16, 32), nn.Linear(32, 8)]
        self.layers = nn.ModuleList([_transposed(each) for each in linear] if transposed else linear)

    def forward(self, x):
        return self.layers[1](self.layers[0](self.norm(x)).relu())


def _transposed(linear):
    layer = Conv1D(linear.out_features, linear.in_features)
    layer.load_state_dict({"weight": linear.weight.t(), "bias": linear.bias})
    return layer


W4 = {"bits": 4, "group_size": 8}
TREATMENTS = [
    *({"type": "weight_quantization", "weights": weights} for weights in ({}, W4, {"bits": 4, "block": [4, 8]})),
    {"type": "static_quantization"},
    {"type": "dynamic_quantization"},
    {"type": "quantization_aware_training"},
    *({"type": kind, "weights": W4} for kind in ("gptq", "awq", "half_quadratic")),
    {"type": "adaround", "weights": {"bits": 4}, "iterations": 50},
    {"type": "weight_quantization", "weights": {"bits": "auto"}, "budget": {"bytes": 0.16}},
    {"type": "smoothquant"},
    {"type": "equalization"},
]


@pytest.mark.parametrize("treatment", TREATMENTS, ids=lambda fields: f"{fields['type']}{len(str(fields))}")
def test_a_layer_that_keeps_the_transpose_is_treated_as_the_linear_layer_that_it_is(treatment):
    x, results = torch.randn(64, 16, generator=torch.Generator().manual_seed(1)), []
    for transposed in (False, True):
        model = Block(transposed).eval()
        before = model(x)
        correction = {"type": "bias_correction"} if treatment["type"] in ("static_quantization", "gptq") else None
        recipe = recipe_of(1, q=treatment, **({"correct": correction} if correction else {}))
        ScheduledManager(Recipe.load(recipe)).apply(model, data=[(x,)] * 2, example_inputs=(x,))
        changed = any(
            not torch.equal(a, b) for a, b in zip(model.parameters(), Block(transposed).parameters(), strict=True)
        )
        assert changed or not torch.equal(model(x), before)
        results.append(model(x))
    assert torch.allclose(*results, atol=1e-5)


def test_scales_of_a_transposed_linear_layer_are_learned_alike():
    x, results = torch.randn(64, 16, generator=torch.Generator().manual_seed(1)), []
    for transposed in (False, True):
        model = Block(transposed)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        manager = ScheduledManager(Recipe.load(recipe_of(1, q={"type": "learned_step_size"})))
        manager.modify(model, optimizer, 5)
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        manager.finalize()
        results.append(model.eval()(x))
    assert torch.allclose(*results, atol=1e-4)


def test_what_only_has_the_name_is_no_such_layer():
    kind = type("Conv1D", (nn.Module,), {})
    assert not isinstance(kind(), LAYERS)
    assert isinstance(Conv1D(2, 3), LAYERS)


class Tied(nn.Module):
    """Tokens in, a score for each token out, by the same table."""

    def __init__(self):
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.body(self.table(ids)).relu())


def test_dynamic_quantization_takes_tables_and_their_heads_alike():
    torch.manual_seed(0)
    model, ids = Tied().eval(), torch.randint(0, 20, (4, 6))
    table = model.table.weight.detach()
    step = table.abs().amax(1, keepdim=True) / 127
    want = (table / step).round() * step
    report = ScheduledManager(Recipe.load(recipe_of(1, q={"type": "dynamic_quantization"}))).apply(model)
    assert torch.allclose(model.table(ids), want[ids], atol=1e-6)
    for layer in (model.table, model.head):
        assert torch.allclose(weight_quantizer(layer).quantized(layer, "weight"), want, atol=1e-6)
    assert {row.name: row.bits[1] for row in report.layers}["table"] < 9
    bag = nn.Sequential(nn.EmbeddingBag(20, 8, mode="sum"))
    ScheduledManager(Recipe.load(recipe_of(1, q={"type": "dynamic_quantization"}))).apply(bag)
    assert weight_quantizer(bag[0]) is not None
