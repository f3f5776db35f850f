"""The exported graph: every claim about it is checked by changing the model and comparing outputs."""

import copy

import pytest
import torch
from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.model.graph.fusion import batch_norms_after, export_graph, scalings, tensors_of
from paredown.framework.model.links import Link, add_link, links_of


class Residual(nn.Module):
    """A block of ResNet: one relu module for both activations."""

    def __init__(self, inputs=6, outputs=8, stride=2):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6(), nn.MaxPool2d(2))
        self.block = Residual()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def mobile():
    """A depthwise-separable block, a head behind a pooling of one pixel."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6()),
        *(nn.Conv2d(8, 12, 1), nn.ReLU(), nn.ConvTranspose2d(12, 10, 2), nn.LeakyReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2)),
    )


def trained(model):
    """With statistics, gains and biases that are none of the trivial ones."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.3, 1.5)
    return model.eval()


def layers_of(model):
    return [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))]


def outputs(model, inputs):
    with torch.no_grad():
        return tensors_of(model(**inputs) if isinstance(inputs, dict) else model(*inputs))


def rescaled(model, scaling):
    changed = copy.deepcopy(model)
    factor = torch.rand(scaling.channels) * 3 + 0.2
    with torch.no_grad():
        for name, dimension in scaling.before:
            parameter = changed.get_parameter(name)
            parameter.div_(factor.view([-1 if place == dimension else 1 for place in range(parameter.dim())]))
        for name, dimension in scaling.after:
            weight = changed.get_submodule(name).weight
            weight.mul_(factor.view([-1 if place == dimension else 1 for place in range(weight.dim())]))
    return changed


def check_by_force(model, inputs, homogeneous):
    """Apply each scaling with random factors: no output changes."""
    model = model.double()
    found = scalings(export_graph(model, inputs), layers_of(model), homogeneous)
    want = outputs(model, inputs)
    for scaling in found:
        changed = rescaled(model, scaling)
        assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), changed.parameters(), strict=True))
        for a, b in zip(outputs(changed, inputs), want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    return {scaling.before[0][0]: [name for name, _ in scaling.after] for scaling in found}


def image(channels=3, size=8):
    torch.manual_seed(2)
    return (torch.randn(2, channels, size, size, dtype=torch.double),)


def test_equalization_pairs_of_a_mobile_block_are_exact():
    model = trained(mobile())
    pairs = check_by_force(model, image(), homogeneous=True)
    assert pairs == {"1.weight": ["3"], "6.weight": ["8"], "8.weight": ["13"], "13.weight": ["15"]}  # relu6 keeps out 4


def test_without_homogeneity_nothing_passes_a_rectifier():
    assert check_by_force(trained(mobile()), image(), homogeneous=False) == {}


def test_a_residual_is_not_touched():
    pairs = check_by_force(trained(ResNet()), image(size=16), homogeneous=True)
    assert pairs == {"block.bn1.weight": ["block.conv2"]}


def test_readers_outside_of_the_layers_rule_a_factor_out():
    model = trained(mobile())
    graph = export_graph(model, (torch.randn(1, 3, 8, 8),))
    found = scalings(graph, ["3", "15"], homogeneous=True)
    assert [scaling.after for scaling in found] == [(("3", 0),), (("15", 1),)]


def test_flattened_pixels_are_no_channels():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    assert check_by_force(model, image(), homogeneous=True) == {}


def test_shared_weights_and_second_calls_are_left_out():
    linear = nn.Linear(6, 6)
    twice = nn.Sequential(nn.Linear(6, 6), linear, linear)
    assert check_by_force(twice, (torch.randn(2, 6, dtype=torch.double),), homogeneous=False) == {}


class Gated(nn.Module):
    """Squeeze and excitation: the gate is made of what it multiplies."""

    def __init__(self):
        super().__init__()
        self.first, self.squeeze, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True))) * x)


def test_a_gate_made_of_the_value_counts_as_a_reader():
    assert check_by_force(Gated(), image(), homogeneous=False) == {"first.weight": ["squeeze", "last"]}


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        return self.last(x * x)


def test_a_product_with_itself_blocks():
    assert check_by_force(Squared(), (torch.randn(2, 4, dtype=torch.double),), homogeneous=False) == {}


def llama(heads=2, **more):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=heads, max_position_embeddings=64, use_cache=False, **more,
    )  # fmt: skip
    return trained(transformers.LlamaForCausalLM(config))


def test_the_factors_of_a_llama_are_exact():
    tokens = {"input_ids": torch.randint(0, 64, (2, 8))}
    pairs = check_by_force(llama(), tokens, homogeneous=False)
    attention = ["q_proj", "k_proj", "v_proj"]
    for block in ("model.layers.0.", "model.layers.1."):
        assert pairs.pop(f"{block}input_layernorm.weight") == [f"{block}self_attn.{name}" for name in attention]
        assert pairs.pop(f"{block}post_attention_layernorm.weight") == [f"{block}mlp.gate_proj", f"{block}mlp.up_proj"]
        assert pairs.pop(f"{block}mlp.up_proj.weight") == [f"{block}mlp.down_proj"]
    assert pairs.pop("model.norm.weight") == ["lm_head"]
    assert not pairs


def test_values_reach_the_output_projection_where_each_head_has_its_own():
    tokens = {"input_ids": torch.randint(0, 64, (2, 8))}
    pairs = check_by_force(llama(heads=4), tokens, homogeneous=False)
    assert pairs["model.layers.0.self_attn.v_proj.weight"] == ["model.layers.0.self_attn.o_proj"]


def test_a_tied_head_is_left_out():
    tokens = {"input_ids": torch.randint(0, 64, (2, 8))}
    pairs = check_by_force(llama(tie_word_embeddings=True), tokens, homogeneous=False)
    assert "model.norm.weight" not in pairs
    assert len(pairs) == 6


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_bert_has_factors_in_its_attention_only(attention):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, attn_implementation=attention,
    )  # fmt: skip
    model = trained(transformers.BertModel(config))
    inputs = {"input_ids": torch.randint(0, 64, (2, 8)), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    assert check_by_force(model, inputs, homogeneous=False) == {
        f"encoder.layer.{index}.attention.self.value.weight": [f"encoder.layer.{index}.attention.output.dense"]
        for index in (0, 1)
    }


def test_batch_norms_are_found_and_fold_exactly():
    model = trained(ResNet()).double()
    pairs = batch_norms_after(export_graph(model, image(size=16)))
    assert pairs == {
        "stem.0": "stem.1",
        "block.conv1": "block.bn1",
        "block.conv2": "block.bn2",
        "block.downsample.0": "block.downsample.1",
    }
    want = outputs(model, image(size=16))[0]
    for conv, norm in ((model.get_submodule(a), model.get_submodule(b)) for a, b in pairs.items()):
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        with torch.no_grad():
            old = 0 if conv.bias is None else conv.bias
            conv.bias = nn.Parameter((old - norm.running_mean) * factor + norm.bias)
            conv.weight.mul_(factor.view(-1, 1, 1, 1))
            norm.weight.fill_(1)
            norm.bias.zero_()
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
    torch.testing.assert_close(outputs(model, image(size=16))[0], want)


class Peeked(nn.Module):
    """The convolution's result is read beside the batch-norm; the second pair is called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.again = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x):
        y = self.conv(x)
        return self.again(self.again(self.norm(y) + y))


def test_batch_norms_that_cannot_be_folded_are_left_out():
    assert batch_norms_after(export_graph(Peeked(), (torch.randn(1, 3, 4, 4),))) == {}


class ActivatedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class PreparedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(2 * x)


@pytest.mark.parametrize("kind", [ActivatedNorm, PreparedNorm])
def test_what_does_more_than_normalise_is_not_folded(kind):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), kind(4), nn.Conv2d(4, 4, 1), type("Renamed", (nn.BatchNorm2d,), {})(4))
    assert batch_norms_after(export_graph(model, (torch.randn(1, 3, 4, 4),))) == {"2": "3"}


class Tokens(nn.Module):
    """A batch-norm over the tokens, and one over what a linear layer gives for each image."""

    def __init__(self):
        super().__init__()
        self.mixed, self.over_tokens = nn.Linear(6, 6), nn.BatchNorm1d(5)
        self.linear, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.over_tokens(self.mixed(x)).mean(1)
        return self.norm(self.linear(x))


def test_batch_norms_behind_linear_layers():
    assert batch_norms_after(export_graph(Tokens(), (torch.randn(2, 5, 6),))) == {"linear": "norm"}


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Doubled(Link):
    def around(self, call, module, /, *args, **kwargs):
        return 2 * call(module, *args, **kwargs)


def test_links_are_passed_by_and_come_back_in_order():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).train()
    first, second = Doubled(), Doubled()
    add_link(model[0], first)
    add_link(model[0], second)
    held = links_of(model[0])
    graph = export_graph(model, (torch.randn(1, 3),))
    assert not [node for node in graph.nodes if "mul" in str(node.target)]
    assert links_of(model[0]) == held
    assert model.training
    assert model[0].training


def test_inputs_may_be_named_or_need_a_callable():
    model = Functional()
    x = torch.randn(2, 3, 4, 4)
    for graph in (export_graph(model, {"x": x}), export_graph(model, x), export_graph(model, [x], lambda m, v: m(*v))):
        assert batch_norms_after(graph) == {"conv": "norm"}


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_traced_is_an_error_with_the_reason():
    with pytest.raises(TargetError, match=r"cannot be traced by torch.export: .*data-dependent"):
        export_graph(Branching(), (torch.randn(3),))


def test_an_lstm_works_afterwards():
    model = nn.LSTM(4, 5)
    inputs = torch.randn(3, 2, 4)
    want = model(inputs)[0]
    export_graph(model, (inputs,))
    assert torch.equal(model(inputs)[0], want)
    model.double()(inputs.double())
