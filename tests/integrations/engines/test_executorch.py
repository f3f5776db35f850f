"""Files for ExecuTorch."""

import copy

import pytest
import torch
from sample_models import conv_net, mlp, recipe_of
from torch import nn

import paredown
from paredown import ExportError, Recipe, ScheduledManager
from paredown.framework.engine.registry import engine_called

pytest.importorskip("executorch")
pytestmark = pytest.mark.filterwarnings("ignore")  # ExecuTorch's own


class Branches(nn.Module):
    """A residual sum and a concatenation of depthwise and plain convolutions, with batch-norms and ReLU6."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.wide = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.joined, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        x = nn.functional.relu6(self.norm(self.stem(x)))
        y = torch.cat([self.deep(x).relu(), self.wide(x).relu()], 1)
        return self.head((self.joined(y) + x).relu().mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def quantized(model, kind, x, **more):
    recipe = {**recipe_of(1, q={"type": kind, **more}), "run": {"engine": "executorch"}}
    ScheduledManager(Recipe.load(recipe)).apply(model, data=[(x,)], example_inputs=(x[:8],))
    return model


def exported(model, x, path, **more):
    return paredown.export(model, (x[:2],), path, engine="executorch", data=[(x,)], repetitions=0, **more)


def computed(made):
    return {row.name: row.computed for row in made.layers}


def test_convolutions_sums_and_concatenations_are_integers_and_the_values_are_the_simulation_s(tmp_path):
    torch.manual_seed(0)
    x, model = torch.randn(32, 3, 8, 8), Branches()
    model(x)
    model.eval()
    made = exported(quantized(model, "static_quantization", x), x, tmp_path / "m.pte")
    assert set(computed(made).values()) == {"integer"}
    assert {"XNNPACK aten.add.Tensor int8", "XNNPACK aten.cat.default int8"} <= set(made.operators)
    assert made.agreement.difference < 1.5 * made.agreement.step  # one step of what is returned
    assert made.agreement.spread < 0.3 * made.agreement.simulated


def test_the_file_runs_without_paredown_with_any_batch_up_to_the_largest(tmp_path):
    runtime = pytest.importorskip("executorch.runtime")
    x, model = torch.randn(32, 16), mlp().eval()
    exported(quantized(model, "static_quantization", x), x, tmp_path / "m.pte", largest_batch=40)
    method = runtime.Runtime.get().load_program(tmp_path / "m.pte").load_method("forward")
    for size in (1, 5, 32):
        (got,) = method.execute([x[:size]])
        assert got.shape == (size, 4)
        assert torch.allclose(got, model(x[:size]), atol=0.05 * float(model(x).abs().max()))
    with pytest.raises(ExportError, match="largest_batch"):
        engine_called("executorch").open(tmp_path / "m.pte").run(torch.randn(64, 16))


def test_inputs_that_are_quantized_as_they_come(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), torch.randn(32, 5, 32)
    made = exported(quantized(model, "dynamic_quantization", x), x, tmp_path / "m.pte")
    assert set(computed(made).values()) == {"integer"}
    assert made.agreement.engine_decibels > made.agreement.simulated_decibels - 0.5


def test_a_result_that_nothing_quantizes_is_computed_in_floating_point_and_named(tmp_path):
    x, model = torch.randn(32, 16), mlp().eval()
    recipe = {**recipe_of(1, q={"type": "static_quantization"}), "run": {"engine": "onnxruntime"}}
    ScheduledManager(Recipe.load(recipe)).apply(model, data=[(x,)], example_inputs=(x[:8],))
    made = exported(model, x, tmp_path / "m.pte")
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    assert computed(made)[last] == "float"
    assert any(last in remark and "nothing quantizes" in remark for remark in made.remarks)
    assert made.agreement.difference < 1e-2 * model(x).abs().max()


def test_an_lstm_stays_in_floating_point(tmp_path):
    torch.manual_seed(0)
    x, model = torch.randn(32, 4, 16), Recurrent().eval()
    made = exported(quantized(model, "dynamic_quantization", x), x, tmp_path / "m.pte")
    assert computed(made) == {"lstm": "float", "head": "integer"}
    assert any("lstm" in remark for remark in made.remarks)


def test_a_bias_that_does_not_fit_beside_tiny_weights_is_kept(tmp_path):
    torch.manual_seed(0)
    x, model = torch.randn(32, 16), nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[0].weight[0] *= 1e-12
        model[0].bias[0] = 2.0
    made = exported(quantized(model, "static_quantization", x), x, tmp_path / "m.pte")
    assert made.agreement.difference < 1.5 * made.agreement.step


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(tmp_path, dtype):
    x, model = torch.randn(32, 16).to(dtype), mlp().to(dtype).eval()
    made = exported(quantized(model, "dynamic_quantization", x), x, tmp_path / "m.pte")
    assert made.agreement.engine_decibels > 30


def test_a_planted_fault_is_refused(tmp_path, monkeypatch):
    from paredown.integrations.export import quantized_decomposed

    x, model = torch.randn(32, 1, 8, 8), conv_net().eval()
    quantized(model, "static_quantization", x)
    right = quantized_decomposed.DecomposedSpelling.stored

    def wrong(self, weight):
        stored = right(self, weight)
        stored.codes[0] = stored.codes[0].flip(-1)
        return stored

    monkeypatch.setattr(quantized_decomposed.DecomposedSpelling, "stored", wrong)
    with pytest.raises(ExportError, match="differ"):
        exported(copy.deepcopy(model), x, tmp_path / "m.pte")
