"""Layers of cores against the matrix that the cores are a train of, entry by entry."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paredown.modifiers.decomposition.forms import tensor_train_layers
from paredown.modifiers.decomposition.forms.tensor_train_layers import (
    TensorTrainEmbedding,
    TensorTrainLinear,
    train_rows,
    train_times,
)

#: digits of the rows, digits of the columns, ranks between
TRAINS = [
    ((3, 4), (5, 2), (2,)),
    ((2, 3, 2), (3, 1, 4), (3, 2)),
    ((1, 6), (4, 3), (9,)),
    ((6, 1), (2, 5), (1,)),
    ((2, 2, 2, 3), (2, 3, 2, 2), (2, 5, 3)),
    ((7,), (6,), ()),
]


def random_cores(rows, columns, ranks, dtype=torch.float64):
    torch.manual_seed(0)
    ends = (1, *ranks, 1)
    return [torch.randn(shape, dtype=dtype) for shape in zip(ends, rows, columns, ends[1:], strict=False)]


def matrix(cores):
    """By the definition: each entry is a product of matrices."""
    rows, columns = ([core.shape[axis] for core in cores] for axis in (1, 2))
    whole = torch.empty(math.prod(rows), math.prod(columns), dtype=cores[0].dtype)
    for i, digits in enumerate(itertools.product(*map(range, rows))):
        for j, others in enumerate(itertools.product(*map(range, columns))):
            parts = [core[:, row, column] for core, row, column in zip(cores, digits, others, strict=True)]
            whole[i, j] = torch.linalg.multi_dot(parts) if len(parts) > 1 else parts[0]
    return whole


@pytest.mark.parametrize("train", TRAINS)
def test_both_products_are_those_of_the_matrix(train):
    cores = random_cores(*train)
    whole = matrix(cores)
    x = torch.randn(9, whole.shape[1], dtype=torch.float64)
    assert torch.allclose(train_times(cores, x), x @ whole.T, atol=1e-10)
    indices = torch.randint(len(whole), (20,))
    assert torch.allclose(train_rows(cores, indices), whole[indices], atol=1e-10)


def linear(train, cut=1, bias=True, dtype=torch.float64):
    cores = random_cores(*train, dtype)
    whole = matrix(cores)
    outputs, inputs = max(1, whole.shape[0] - cut), max(1, whole.shape[1] - cut)
    parameter = nn.Parameter(torch.randn(outputs, dtype=dtype)) if bias else None
    return TensorTrainLinear(cores, inputs, outputs, parameter), whole[:outputs, :inputs]


@pytest.mark.parametrize("train", TRAINS)
@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,), (2, 500)])
def test_linear_is_that_of_its_matrix(train, cut, bias, lead):
    layer, whole = linear(train, cut, bias)
    x = torch.randn(*lead, layer.in_features, dtype=torch.float64, requires_grad=True)
    expected = F.linear(x, whole, layer.bias)
    assert torch.allclose(layer.weight, whole, atol=1e-10)
    assert layer(x).shape == expected.shape
    assert torch.allclose(layer(x), expected, atol=1e-10)
    slopes = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((y * slopes).sum(), x)[0] for y in (layer(x), expected))
    assert torch.allclose(ours, theirs, atol=1e-10)


def gradients(module, y):
    return torch.autograd.grad(y.square().sum(), list(module.parameters()))


@pytest.mark.parametrize("vectors", [1, 400])
def test_gradients_of_the_cores(vectors):
    layer, _ = linear(TRAINS[1])
    x = torch.randn(vectors, layer.in_features, dtype=torch.float64)
    ours, theirs = gradients(layer, layer(x)), gradients(layer, F.linear(x, layer.weight, layer.bias))
    assert all(torch.allclose(a, b, rtol=1e-8) for a, b in zip(ours, theirs, strict=True))


def test_the_multiplications_that_are_counted_are_made():
    for train in TRAINS:
        cores = random_cores(*train)
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            train_times(cores, torch.randn(1, math.prod(train[1]), dtype=torch.float64))
        assert counter.get_total_flops() == 2 * tensor_train_layers._multiplications_of_a_vector(cores)


@pytest.mark.parametrize(("vectors", "rank", "dense"), [(2, 64, False), (1000, 64, True), (1000, 1, False)])
def test_many_vectors_of_high_ranks_are_multiplied_densely(monkeypatch, vectors, rank, dense):
    layer, calls = TensorTrainLinear(random_cores((8, 8), (8, 8), (rank,), torch.float32), 64, 64), []
    monkeypatch.setattr(tensor_train_layers, "train_times", lambda *given: calls.append(1) or train_times(*given))
    layer(torch.randn(vectors, 64))
    assert bool(calls) != dense


def embedding(train, cut=1, padding_idx=None):
    cores = random_cores(*train)
    whole = matrix(cores)
    rows, width = max(1, whole.shape[0] - cut), max(1, whole.shape[1] - cut)
    return TensorTrainEmbedding(cores, rows, width, padding_idx), whole[:rows, :width]


@pytest.mark.parametrize("train", TRAINS)
@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,), (2, 500)])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_embedding_is_that_of_its_matrix(train, cut, lead, dtype):
    layer, whole = embedding(train, cut)
    indices = torch.randint(layer.num_embeddings, lead, dtype=dtype)
    expected = whole[indices.long()]
    assert layer(indices).shape == expected.shape
    assert torch.allclose(layer(indices), expected, atol=1e-10)
    assert torch.allclose(layer.weight, whole, atol=1e-10)


def test_gradients_of_an_embedding():
    layer, _ = embedding(TRAINS[1], padding_idx=2)
    indices = torch.tensor([[0, 3], [3, 2]])
    ours, theirs = gradients(layer, layer(indices)), gradients(layer, layer.weight[indices])
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))
    assert layer.padding_idx == 2


@pytest.mark.parametrize("index", [-1, 12, 1000])
@pytest.mark.parametrize("count", [1, 50])
def test_an_index_that_no_digits_mean_is_refused(index, count):
    layer, _ = embedding(TRAINS[0], cut=0)
    with pytest.raises((IndexError, RuntimeError)):
        layer(torch.full((count,), index))


def test_parameters_are_taken_as_they_are():
    cores = [nn.Parameter(core) for core in random_cores(*TRAINS[1])]
    bias = nn.Parameter(torch.zeros(12))
    layer, table = TensorTrainLinear(cores, 12, 12, bias), TensorTrainEmbedding(cores, 12, 12)
    assert {id(each) for each in layer.parameters()} == {id(each) for each in (bias, *cores)}
    assert {id(each) for each in table.parameters()} == set(map(id, cores))


@pytest.mark.parametrize("build", [linear, embedding])
def test_copies_and_state(build):
    layer, _ = build(TRAINS[1])
    x = torch.ones(2, 11, dtype=torch.float64) if build is linear else torch.tensor([1, 2])
    other = copy.deepcopy(layer)
    assert torch.equal(other(x), layer(x))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert set(layer.state_dict()) - {"bias"} == {"cores.0", "cores.1", "cores.2"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    layer, whole = linear(TRAINS[0])
    table, rows = embedding(TRAINS[0])
    x, indices = torch.randn(5, layer.in_features).to(dtype), torch.arange(5)
    ours, expected = layer.to(dtype)(x), F.linear(x.double(), whole, layer.bias.double())
    assert ours.dtype == table.to(dtype)(indices).dtype == dtype
    assert torch.allclose(ours.double(), expected, atol=0.2, rtol=0.05)
    assert torch.allclose(table(indices).double(), rows[:5], atol=0.2, rtol=0.05)


@pytest.mark.parametrize("count", [2, 2000])
def test_autocast_gives_the_types_of_torch(count):
    layer, table = linear(TRAINS[0])[0].float(), embedding(TRAINS[0])[0].float()
    x, indices = torch.randn(count, layer.in_features), torch.randint(table.num_embeddings, (count,))
    expected = layer(x), table(indices)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert table(indices).dtype == torch.float32
        assert torch.allclose(layer(x).float(), expected[0], atol=0.2, rtol=0.05)
        assert torch.allclose(table(indices), expected[1], atol=0.2, rtol=0.05)


@pytest.mark.parametrize("kind", ["low ranks", "high ranks", "embedding"])
def test_compile_and_export(kind):
    trains = {"low ranks": ((3, 4), (5, 2), (1,)), "high ranks": ((4, 3), (4, 3), (9,)), "embedding": TRAINS[1]}
    layer, _ = (embedding if kind == "embedding" else linear)(trains[kind])
    vectors = torch.randn(700, getattr(layer, "in_features", 1), dtype=torch.float64)
    many = torch.randint(11, (700,)) if kind == "embedding" else vectors
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    exported = torch.export.export(layer, (many[:3],), dynamic_shapes=shapes).module()
    for x in (many[:3], many, many[:2], many[:600]):
        assert torch.allclose(compiled(x), layer(x), atol=1e-10)
        assert torch.allclose(exported(x), layer(x), atol=1e-10)


def test_they_tell_their_sizes():
    assert "11, 11, ranks=(3, 2), bias=True" in repr(linear(TRAINS[1])[0])
    assert "11, 11, ranks=(3, 2)" in repr(embedding(TRAINS[1])[0])
