"""Layers with weights in CSR compute what they computed, and stay what they were for everything else."""

import copy
import pickle

import pytest
import torch
from sample_models import recipe_of
from torch import nn
from torch.nn.utils import parametrizations

import paredown
from paredown import ParedownError, Recipe, ScheduledManager
from paredown.integrations import sparse_layers
from paredown.integrations.sparse.layers import put_sparse_
from paredown.integrations.sparse.rows import SparseRows, linear, pointwise, sparse_rows


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def zeros_(model, share=0.97):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) >= share)
    return model.eval()


def perceptron(share=0.97):
    torch.manual_seed(0)
    return zeros_(
        nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 4)), share
    )


X = torch.randn(16, 512, generator=torch.Generator().manual_seed(3))


def convert_all_(model):
    """Convert whatever can be, however fast it is."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            put_sparse_(module, sparse_rows(module.weight))
    return model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(9,), (1, 9), (3, 9), (2, 5, 9), (4, 50, 9), (0, 9)])
def test_products_of_rows_beside_float64(shape, bias):
    layer = zeros_(nn.Linear(9, 7, bias=bias, dtype=torch.float64), 0.6)
    x = torch.randn(shape, dtype=torch.float64)
    got = convert_all_(copy.deepcopy(layer))(x)
    assert got.shape == layer(x).shape
    assert got.is_contiguous()
    assert torch.allclose(got, layer(x), atol=1e-12)


def test_many_rows_are_taken_in_blocks():
    weight = zeros_(nn.Linear(8, 6), 0.6).weight.detach()
    x = torch.randn(10_001, 8)
    assert torch.allclose(linear(x, sparse_rows(weight), None), x @ weight.t(), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.Conv1d, (3, 6, 11)), (nn.Conv2d, (3, 6, 7, 5)), (nn.Conv2d, (6, 7, 5))]
)
def test_products_of_images(kind, shape, stride):
    layer, x = zeros_(kind(6, 9, 1, stride=stride), 0.6), torch.randn(shape)
    assert torch.allclose(convert_all_(copy.deepcopy(layer))(x), layer(x), atol=1e-5)


def test_the_memory_format_stays():
    layer = zeros_(nn.Conv2d(6, 9, 1), 0.6).requires_grad_(False)
    x = torch.randn(3, 6, 7, 5).to(memory_format=torch.channels_last)
    got = pointwise(x, sparse_rows(layer.weight), layer.bias, (1, 1))
    assert got.stride() == layer.to(memory_format=torch.channels_last)(x).stride()
    assert torch.allclose(got, layer(x), atol=1e-5)


def test_large_layers_of_many_zeros_are_converted_and_named():
    dense, model = perceptron(), perceptron()
    told = sparse_layers.convert(model, (X,))
    assert told.converted[:2] == ["0", "2"]
    before, after = told.seconds
    assert before > 1.2 * after
    assert "2 of 3 layers skip their zeros" in str(told) or "3 of 3" in str(told)
    assert all(type(model[int(name)].weight) is SparseRows for name in told.converted)
    assert isinstance(model[0], nn.Linear)
    assert type(model[0]).__name__ == "Linear"
    for x in (X, X[:1], torch.randn(33, 512)):
        assert torch.allclose(model(x), dense(x), atol=1e-5)


def test_copies_pickles_and_state_dicts(tmp_path):
    dense = perceptron()
    model = convert_all_(perceptron())
    want = dense.state_dict()
    assert [(key, value.shape) for key, value in model.state_dict().items()] == [(k, v.shape) for k, v in want.items()]
    assert all(torch.equal(value, want[key]) for key, value in model.state_dict().items())
    torch.save(model, tmp_path / "m.pt")
    for again in (
        copy.deepcopy(model), copy.deepcopy(copy.deepcopy(model)), pickle.loads(pickle.dumps(copy.deepcopy(model))),
        torch.load(tmp_path / "m.pt", weights_only=False),
    ):  # fmt: skip
        assert torch.equal(again(X), model(X))
        assert type(again[0].weight) is SparseRows


def test_other_weights_are_loaded():
    """Of many zeros in CSR; of few as a dense layer, which is faster then."""
    model = convert_all_(perceptron())
    other = zeros_(nn.Sequential(*(copy.deepcopy(each) for each in perceptron(0.0))), 0.9)
    model.load_state_dict(other.state_dict())
    assert torch.allclose(model(X), other(X), atol=1e-5)
    assert type(model[0].weight) is SparseRows
    full = perceptron(0.0)
    model.load_state_dict(full.state_dict(), assign=True)
    assert torch.equal(model(X), full(X))
    assert type(model[0]) is nn.Linear
    with pytest.raises(RuntimeError, match="size mismatch for 0.weight"):
        convert_all_(perceptron()).load_state_dict({**other.state_dict(), "0.weight": torch.zeros(3, 3)})


def test_gradients_of_inputs_and_biases():
    dense = perceptron()
    model = convert_all_(perceptron())
    found = []
    for each in (dense, model):
        x = X.clone().requires_grad_()
        each(x).square().sum().backward()
        found.append((x.grad, each[0].bias.grad))
    for want, got in zip(*found, strict=True):
        assert torch.allclose(want, got, atol=1e-5)


def test_training_is_refused_until_the_weights_are_dense_again():
    model = convert_all_(perceptron())
    with pytest.raises(ParedownError, match=r"cannot be trained: sparse_layers.restore\(model\)"):
        model.train()(X)
    model.eval().requires_grad_(True)
    with pytest.raises(ParedownError, match="cannot be trained"):
        model(X)
    manager = ScheduledManager(Recipe.load(recipe_of(1, p={"type": "magnitude_pruning", "final_sparsity": 0.5})))
    with pytest.raises(ParedownError, match=r"0.weight is stored as torch.sparse_csr, for inference"):
        manager.apply(model)
    assert sparse_layers.restore(model) == ["0", "2", "4"]
    model.train()(X).sum().backward()
    assert model[0].weight.grad is not None
    assert torch.equal(model(X), perceptron()(X))


def test_other_types_and_autocast_are_computed_densely():
    dense, model = perceptron(), convert_all_(perceptron())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(X), dense(X))
    assert torch.allclose(copy.deepcopy(model).double()(X.double()), dense(X).double(), atol=1e-5)
    half = copy.deepcopy(model).bfloat16()
    assert half(X.bfloat16()).dtype == torch.bfloat16
    assert torch.allclose(torch.func.vmap(model)(X), dense(X), atol=1e-5)
    with pytest.raises(RuntimeError):
        half(X)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Linear(512, 512)
        self.called = nn.Linear(512, 512)
        self.idle = nn.Linear(512, 512)
        self.attention = nn.MultiheadAttention(512, 4, batch_first=True)
        self.weighed = parametrizations.weight_norm(nn.Linear(512, 512))
        self.tied, self.other = nn.Linear(512, 512), nn.Linear(512, 512)
        self.other.weight = self.tied.weight

    def forward(self, x):
        x = self.called(nn.functional.linear(x, self.read.weight))
        return self.weighed(self.tied(self.other(self.attention(x, x, x)[0])))


REASONS = {
    "read": "the code of a module above it reads its weight",
    "idle": "its forward is not called",
    "attention.out_proj": "MultiheadAttention reads its weight",
    "weighed": "its weight is computed",
    "tied": "it shares a parameter with other",
}


def test_every_layer_that_stays_has_a_reason():
    model = zeros_(Reader())
    want = model(X)
    told = sparse_layers.convert(model, (X,))
    reasons = {layer.name: layer.reason for layer in told.layers}
    for name, reason in REASONS.items():
        assert reason in reasons[name]
        assert reason in str(told)
    assert set(told.converted) <= {"called"}
    assert torch.allclose(model(X), want, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.bfloat16(), "its weight is bfloat16"),
        (lambda m: m.to("meta"), "its weight is on meta"),
        (lambda m: perceptron(0.3), "half of its weights or more are no zeros"),
    ],
)
def test_other_devices_types_and_full_weights_stay(change, reason):
    told = sparse_layers.convert(change(perceptron()), (X,), ignore=["4"])
    assert not told.converted
    assert all(reason in layer.reason for layer in told.layers)


def test_a_quantized_layer_stays():
    model = perceptron()
    manager = ScheduledManager(Recipe.load(recipe_of(1, q={"type": "weight_quantization"})))
    manager.apply(model, data=[(X,)])
    assert all("quantized" in layer.reason for layer in sparse_layers.convert(model, (X,)).layers)


def test_transformer_layers_keep_calling_what_was_converted():
    """Their fast path would hand a weight in CSR to a dense kernel."""
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(384, 4, 2048, dropout=0.0, batch_first=True), 1)
    x = torch.randn(1, 8, 384)
    want = zeros_(model, 0.99)(x).detach()
    told = sparse_layers.convert(model, (x,))
    assert "layers.0.linear1" in told.converted
    with torch.no_grad():
        assert torch.allclose(model(x), want, atol=1e-5)
        sparse_layers.restore(model)
        assert torch.allclose(model(x), want, atol=1e-5)


def test_a_converted_model_is_exported_dense(tmp_path):
    model = convert_all_(perceptron())
    made = paredown.export(model, (X,), tmp_path / "m.pt2", engine="torch", repetitions=0)
    (got,) = torch.export.load(made.path).module()(X)
    assert torch.allclose(got, perceptron()(X), atol=1e-5)
    assert type(model[0].weight) is SparseRows
