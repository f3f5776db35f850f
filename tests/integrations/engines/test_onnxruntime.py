"""Files for onnxruntime: what it computes in integers, and that a file with a fault is refused."""

import copy
import dataclasses
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sample_models import recipe_of
from torch import nn

import paredown
from paredown import ExportError, Recipe, ScheduledManager

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
from paredown.integrations.engines.onnxruntime import OnnxRuntime  # noqa: E402


class Residual(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(i, c, 3, padding=1, bias=False) for i in (3, c, c))
        self.n0, self.n1, self.n2 = (nn.BatchNorm2d(c) for _ in range(3))
        self.head = nn.Linear(c, 5)

    def forward(self, x):
        x = F.relu(self.n0(self.stem(x)))
        x = F.relu(x + self.n2(self.b(F.relu(self.n1(self.a(x))))))
        return self.head(x.mean((2, 3)))


def images(n=64, size=12, seed=0):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def residual():
    torch.manual_seed(0)
    model = Residual().train()
    with torch.no_grad():
        for _ in range(6):
            model(images(32))
    for norm in (model.n0, model.n1, model.n2):
        nn.init.normal_(norm.bias, std=0.3)
    return model.eval()


def quantized(model, kind, data, **fields):
    recipe = {**recipe_of(1, q={"type": kind, **fields}), "run": {"engine": "onnxruntime"}}
    ScheduledManager(Recipe.load(recipe)).apply(model, data=data, example_inputs=(data[0][0],))
    return model


def outputs(path, *inputs):
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {given.name: x.numpy() for given, x in zip(session.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(session.run(None, feeds)[0])


def decibels(want, got):
    return 10 * torch.log10(want.square().sum() / (want - got).square().sum()).item()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A quantized residual net, as it was before, its data, and its file."""
    dense, data = residual(), [(part,) for part in images().split(16)]
    model = quantized(copy.deepcopy(dense), "static_quantization", data)
    path = tmp_path_factory.mktemp("written") / "model.onnx"
    made = paredown.export(model, (images(8),), path, data=data, reference=dense, allow_slower=True, repetitions=4)
    return dense, model, data, made


def test_a_plain_session_gives_what_was_simulated_for_any_batch(written):
    dense, model, data, made = written
    x = images(7, seed=5)
    want, got = dense(x).detach(), outputs(made.path, x)
    assert decibels(want, got) > decibels(want, model(x).detach()) - 1
    assert outputs(made.path, x[:1]).shape == (1, 5)


def test_every_layer_is_computed_in_integers_and_so_is_the_sum(written):
    made = written[3]
    assert made.operators["QLinearConv"] == 3
    assert made.operators["QLinearAdd"] == 1
    assert made.operators["QGemm"] == 1
    assert {row.name: row.computed for row in made.layers} == dict.fromkeys(("stem", "a", "b", "head"), "integer")
    assert made.integer_share == 1
    assert all(row.engine > row.simulated - 2 for row in made.layers)


def test_sizes_and_speeds_are_those_of_files(written):
    made = written[3]
    assert made.bytes == made.path.stat().st_size < 0.65 * made.reference_bytes
    assert made.speedup == made.reference_latency.median / made.latency.median
    assert "integer layers" in str(made)
    assert "CPU time" in str(made)


def initializer(model, test):
    return next(each for each in model.graph.initializer if test(onnx.numpy_helper.to_array(each)))


def changed(test, change):
    def spoil(model):
        tensor = initializer(model, test)
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(change(values.copy())), tensor.name))

    return spoil


def behind(kind):
    """An operator more, before the result is returned."""

    def spoil(model):
        model.graph.node[-1].output[0] = "before"
        model.graph.node.append(onnx.helper.make_node(kind, ["before"], [model.graph.output[0].name]))

    return spoil


def swapped_inputs(model):
    node = next(each for each in model.graph.node if each.op_type == "QuantizeLinear")
    node.input[0], node.input[1] = node.input[0], model.graph.node[0].input[1]
    scale = next(each for each in model.graph.initializer if each.name == node.input[1])
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(0.5), scale.name))


def of(kind, dimensions):
    return lambda values: values.dtype == kind and values.ndim == dimensions


def CODES(v):
    return v.dtype in (np.int8, np.uint8) and v.ndim == 4 and v.shape[1] > 3


FAULTS = {
    "a weight's scales doubled": changed(lambda v: v.dtype == np.float32 and v.shape == (16,), lambda v: 2 * v),
    "one channel's scale tripled": changed(
        lambda v: v.dtype == np.float32 and v.shape == (5,), lambda v: v * np.array([3, 1, 1, 1, 1], v.dtype)
    ),
    "output channels swapped": changed(CODES, lambda v: v[::-1]),
    "input channels swapped": changed(CODES, lambda v: v[:, ::-1]),
    "a kernel turned": changed(CODES, lambda v: v[:, :, ::-1]),
    "a weight's sign": changed(CODES, lambda v: np.where(v > v.min(), (-v.astype(np.int16)).astype(v.dtype), v)),
    "a bias lost": changed(of(np.int32, 1), lambda v: 0 * v),
    "a bias moved": changed(of(np.int32, 1), lambda v: v + abs(v).max()),
    "a weight's zero points off": changed(
        lambda v: v.dtype in (np.int8, np.uint8) and v.shape == (16,), lambda v: v + v.dtype.type(9)
    ),
    "an activation too many": behind("Relu"),
    "the sign of the result": behind("Neg"),
    "an input's scale halved": swapped_inputs,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_a_fault_is_refused(written, fault, tmp_path, monkeypatch):
    _, model, data, made = written

    def write(self, model, inputs, path, **options):
        spoilt = onnx.load(made.path)
        FAULTS[fault](spoilt)
        onnx.save(spoilt, path)
        return dataclasses.replace(results, path=path)

    results = paredown.framework.engine.contract.Written(made.path)
    monkeypatch.setattr(OnnxRuntime, "write", write)
    with pytest.raises(ExportError, match="differ"):
        paredown.export(model, (images(8),), tmp_path / "model.onnx", data=data, repetitions=0)


def test_and_the_file_itself_is_not(written, tmp_path, monkeypatch):
    _, model, data, made = written
    results = paredown.framework.engine.contract.Written(tmp_path / "model.onnx")
    monkeypatch.setattr(OnnxRuntime, "write", lambda self, m, i, path, **o: shutil.copy(made.path, path) and results)
    again = paredown.export(model, (images(8),), tmp_path / "model.onnx", data=data, repetitions=0)
    assert not again.mended
    assert again.agreement.fault() is None


@pytest.mark.parametrize("bits", [3, 6])
def test_narrow_weights_meet_quantized_inputs_as_int8(bits, tmp_path):
    data = [(images(32),)]
    model = quantized(residual(), "static_quantization", data, weights={"bits": bits})
    made = paredown.export(model, (images(8),), tmp_path / "m.onnx", data=data, repetitions=0)
    assert made.operators["QLinearConv"] == 3
    assert "Conv" not in made.operators


def test_a_channel_of_next_to_nothing_sends_no_layer_to_floats(tmp_path):
    model = residual()
    with torch.no_grad():
        for layer in (model.stem, model.a, model.b):
            layer.weight[0].mul_(1e-9 / layer.weight[0].abs().max())
        for norm in (model.n0, model.n1, model.n2):
            norm.bias.fill_(0.3)
    dense, data = copy.deepcopy(model), [(images(32),)]
    quantized(model, "static_quantization", data)
    made = paredown.export(model, (images(8),), tmp_path / "m.onnx", data=data, repetitions=0)
    assert made.operators["QLinearConv"] == 3
    x = images(8, seed=3)
    assert decibels(dense(x).detach(), outputs(made.path, x)) > 20


class Recurrent(nn.Module):
    def __init__(self, kind, **settings):
        super().__init__()
        self.layer = kind(24, 32, batch_first=True, **settings)
        self.head = nn.Linear(64 if settings.get("bidirectional") else 32, 4)

    def forward(self, x):
        return self.head(self.layer(x)[0])


def test_an_lstm_is_computed_in_integers_as_it_is_simulated(tmp_path):
    torch.manual_seed(0)
    model, x = Recurrent(nn.LSTM, num_layers=2, bidirectional=True).eval(), torch.randn(4, 9, 24)
    quantized(model, "dynamic_quantization", [(x,)])
    made = paredown.export(model, (x,), tmp_path / "m.onnx", repetitions=0)
    assert made.operators["DynamicQuantizeLSTM"] == 2
    # with several threads, each rounds the states of its own part of the batch
    assert decibels(model(x).detach(), outputs(made.path, x)) > 40


def test_a_gru_is_stored_in_integers_and_computed_in_floats(tmp_path):
    torch.manual_seed(0)
    model, x = Recurrent(nn.GRU).eval(), torch.randn(4, 9, 24)
    dense = copy.deepcopy(model)
    plan = ScheduledManager(
        Recipe.load({**recipe_of(1, q={"type": "dynamic_quantization"}), "run": {"engine": "onnxruntime"}})
    ).plan(model, example_inputs=(x,))
    assert "floating point in onnxruntime (onnxruntime has no integer kernel for GRU)" in str(plan)
    assert "integer in onnxruntime" in str(plan)
    quantized(model, "dynamic_quantization", [(x,)])
    made = paredown.export(model, (x,), tmp_path / "m.onnx", repetitions=0)
    assert made.operators["GRU"] == 1
    assert not {"DequantizeLinear", "Cast"} & set(made.operators), "the weights are unpacked when the file is opened"
    assert made.bytes < 0.6 * sum(4 * p.numel() for p in dense.parameters())


def test_an_attention_multiplies_integers(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), torch.randn(2, 6, 32)
    quantized(model, "dynamic_quantization", [(x,)])
    made = paredown.export(model, (x,), tmp_path / "m.onnx", repetitions=0)
    assert made.operators["DynamicQuantizeMatMul"] == 4
    assert decibels(model(x).detach(), outputs(made.path, x)) > 60


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_written_in_float32(dtype, tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval().to(dtype), torch.randn(32, 16)
    want = model(x.to(dtype)).float()
    quantized(model, "static_quantization", [(x.to(dtype),)])
    made = paredown.export(model, (x.to(dtype),), tmp_path / "m.onnx", repetitions=0)
    assert decibels(want.detach(), outputs(made.path, x)) > 25


class Shaped(nn.Module):
    """Asks its table how long it is, and cannot take any batch."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(16, 3)

    def forward(self, tokens):
        if tokens.shape[1] > self.table.weight.shape[0]:
            raise ValueError("too long")
        return self.head(self.table(tokens).reshape(2, 16))


def test_a_weight_keeps_its_shape_and_a_fixed_batch_is_said(tmp_path):
    torch.manual_seed(0)
    model, tokens = Shaped().eval(), torch.randint(0, 20, (2, 2))
    quantized(model, "weight_quantization", [(tokens,)])
    made = paredown.export(model, (tokens,), tmp_path / "m.onnx", repetitions=0)
    assert decibels(model(tokens).detach(), outputs(made.path, tokens)) > 60
    assert any("the batch is fixed at 2" in remark for remark in made.remarks)


class Reader(nn.Module):
    """An embedding, an LSTM, a linear layer."""

    def __init__(self):
        super().__init__()
        self.table, self.lstm, self.head = nn.Embedding(200, 32), nn.LSTM(32, 48, batch_first=True), nn.Linear(48, 5)

    def forward(self, x):
        return self.head(self.lstm(self.table(x))[0][:, -1])


@pytest.mark.parametrize(
    ("quantize", "most"),
    [
        ({"type": "dynamic_quantization"}, 0.6),
        ({"type": "weight_quantization", "weights": {"bits": 4}}, 0.7),
        (None, 0.45),
    ],
    ids=["integers", "half bytes", "floats"],
)
def test_all_weights_are_packed_and_each_layer_is_computed_as_before(tmp_path, quantize, most):
    torch.manual_seed(0)
    model, data = Reader().eval(), [(torch.randint(200, (16, 6)),) for _ in range(2)]
    prune = {"type": "magnitude_pruning", "final_sparsity": 0.9, "scope": "local"}
    modifiers = {"prune": prune, **({} if quantize is None else {"quantize": quantize})}
    manager = ScheduledManager({"recipe": 1, "run": {"engine": "onnxruntime"}, "modifiers": modifiers})
    manager.apply(model, data=data, example_inputs=data[0])
    before = manager.export(tmp_path / "plain.onnx", repetitions=0)
    made = manager.export(tmp_path / "packed.onnx", repetitions=2, packed=True, allow_slower=True)
    assert made.bytes == (tmp_path / "packed.onnx").stat().st_size < most * before.bytes
    assert made.packed.plain_bytes == before.bytes
    assert made.operators == before.operators
    assert [(row.name, row.computed) for row in made.layers] == [(row.name, row.computed) for row in before.layers]
    assert f"packed: {before.bytes:,} bytes before" in str(made)


def test_a_plan_foresees_the_packed_file():
    model, x = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8)), torch.randn(8, 64)
    prune = {"type": "magnitude_pruning", "final_sparsity": 0.95, "scope": "local"}
    manager = ScheduledManager({"recipe": 1, "run": {"engine": "onnxruntime"}, "modifiers": {"prune": prune}})
    plain, packed = (manager.plan(model, example_inputs=(x,), packed=each).file.bytes for each in (False, True))
    assert packed[0] == plain[0]
    assert packed[1] < 0.2 * plain[1]
