"""Counts against counting by hand."""

import pytest
import torch
from torch import nn

from paredown.framework.measure.counts import measure_model
from paredown.framework.measure.latency import measure_latency
from paredown.framework.measure.size import bytes_on_disk


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))


def test_layers_and_totals():
    model = small_net()
    with torch.no_grad():
        model[4].weight[:, ::2] = 0
    measured = measure_model(model, torch.randn(2, 3, 4, 4))
    conv, norm, linear = measured.layers
    assert [layer.name for layer in measured.layers] == ["0", "1", "4"]
    assert [layer.kind for layer in measured.layers] == ["Conv2d", "BatchNorm2d", "Linear"]
    assert (conv.parameters, conv.macs) == (8 * 27 + 8, 2 * 8 * 27 * 16)
    assert (norm.parameters, norm.nonzeros, norm.macs) == (16, 8, 0)
    assert (linear.parameters, linear.nonzeros, linear.macs) == (1290, 650, 2 * 1280)
    assert linear.sparsity == pytest.approx(640 / 1290)
    assert measured.parameters == 224 + 16 + 1290
    assert measured.macs == conv.macs + linear.macs
    assert [layer.bits for layer in measured.layers] == [224 * 32, 16 * 32, 1290 * 32]


def test_the_model_is_left_as_it_was():
    model = small_net()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_model(model, torch.randn(2, 3, 4, 4))
    bytes_on_disk(model)
    measure_latency({"a": model, "b": model}, (torch.randn(2, 3, 4, 4),), repetitions=2)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_inputs_there_are_no_macs():
    measured = measure_model(nn.Linear(4, 4))
    assert measured.macs is None
    assert measured.layers[0].name == ""
    assert measure_model(nn.Linear(4, 4), torch.randn(1, 4)).layers[0].macs == 16


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    alone = bytes_on_disk(model[:1])
    model[1].weight = model[0].weight
    assert measure_model(model).parameters == 64
    assert bytes_on_disk(model) < 1.1 * alone


def test_a_compiled_model_is_seen_through():
    model = small_net()
    assert measure_model(torch.compile(model, backend="eager")).layers == measure_model(model).layers


def test_attention_counts_in_the_total():
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    measured = measure_model(nn.Sequential(nn.Linear(8, 8), Attention()), torch.randn(1, 1, 5, 8))
    assert measured.layers[0].macs == 5 * 64
    assert measured.macs == 5 * 64 + 2 * 5 * 5 * 8


class Queries(nn.Module):
    """Learned queries that are handed to a layer as a view of their parameter, and multiplied by a matrix of its own."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(4, 16))
        self.mix = nn.Parameter(torch.randn(16, 8))
        self.first = nn.Linear(16, 16)

    def forward(self, x):
        queries = self.first(self.query.expand(len(x), -1, -1))
        return (queries @ x.transpose(1, 2)).softmax(-1) @ (x @ self.mix)


def test_a_view_of_a_parameter_and_products_with_parameters_are_counted():
    measured = measure_model(Queries(), torch.randn(2, 5, 16))
    own, first = 2 * 5 * 16 * 8, 2 * 4 * 16 * 16
    assert [layer.macs for layer in measured.layers] == [own, first]
    assert measured.weight_macs == own + first
    assert measured.macs == own + first + 2 * 4 * 5 * 16 + 2 * 4 * 5 * 8


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_fused_recurrent_layers_are_counted(kind):
    layer = kind(8, 16, num_layers=2, bidirectional=True)
    matrices = sum(each.numel() for each in layer.parameters() if each.dim() == 2)
    assert measure_model(layer, torch.randn(5, 3, 8)).macs == 5 * 3 * matrices


def test_the_fused_encoder_layer_is_counted_as_what_it_does():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    measured = measure_model(layer, torch.randn(2, 6, 32))
    assert measured.weight_macs == 12 * (4 * 32 * 32 + 2 * 32 * 64)
    assert measured.macs == measured.weight_macs + 2 * 2 * 6 * 6 * 32


def test_a_weight_that_is_computed_stays_one():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    assert measure_model(layer, torch.randn(3, 8)).weight_macs == 3 * 64


def test_few_values_of_a_matrix_are_counted_as_indices():
    layer = nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        layer.weight.mul_(10).round_().clamp_(-4, 3)
    assert measure_model(layer).layers[0].bits == 64 * 64 * 2
    small = nn.Linear(4, 4, bias=False)
    nn.init.ones_(small.weight)
    assert measure_model(small).layers[0].bits == 16 * 32
