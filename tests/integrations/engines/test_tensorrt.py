"""Files as TensorRT's documentation asks for them; there is no GPU here."""

import numpy as np
import pytest
import torch
from sample_models import recipe_of, token_net
from torch import nn

import paredown
from paredown import Recipe, ScheduledManager, TargetError

onnx = pytest.importorskip("onnx")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.body(x)).mean((2, 3)))


def compressed(model, x, **quantize):
    recipe = recipe_of(
        1, p={"type": "magnitude_pruning", "structure": "2:4", "scope": "local", "ignore": ["stem"]},
        q={"type": "static_quantization", **quantize},
    )  # fmt: skip
    manager = ScheduledManager(Recipe.load({**recipe, "run": {"epochs": 1, "engine": "tensorrt"}}))
    manager.apply(model.eval(), data=[(x,)], example_inputs=(x,))
    return manager


@pytest.mark.parametrize("opset", [13, 21])
def test_codes_axes_biases_and_zeros(opset, tmp_path):
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(32, 4, 8, 8)
    made = compressed(model, x).export(tmp_path / "m.onnx", data=[(x,)], repetitions=2, opset=opset)
    assert made.latency is None
    assert any("trtexec" in each for each in made.remarks)
    graph = onnx.load(made.path).graph
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    quantize = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    dequantize = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert len(quantize) == 3
    for node in (*quantize, *dequantize):
        zero = stored[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    weights = [node for node in dequantize if node.input[0] in stored]
    assert len(weights) == 3
    for node in weights:
        assert [each.i for each in node.attribute if each.name == "axis"] == [0]
        assert stored[node.input[0]].dtype == np.int8
    assert all(values.dtype != np.int32 for values in stored.values())
    (body,) = [values for values in stored.values() if values.dtype == np.int8 and values.shape == (16, 16, 1, 1)]
    assert ((body.reshape(-1, 4) != 0).sum(1) <= 2).all()


def test_tokens_of_three_dimensions(tmp_path):
    torch.manual_seed(0)
    model, x = token_net(), torch.randn(8, 1, 8, 8)
    recipe = recipe_of(1, q={"type": "static_quantization"})
    manager = ScheduledManager(Recipe.load({**recipe, "run": {"epochs": 1, "engine": "tensorrt"}}))
    manager.apply(model.eval(), data=[(x,)], example_inputs=(x,))
    made = manager.export(tmp_path / "m.onnx", data=[(x,)], repetitions=0)
    assert made.agreement.engine_decibels > made.agreement.simulated_decibels - 1


def test_inputs_with_a_zero_point_are_refused():
    with pytest.raises(
        TargetError, match="activations.symmetric is false, and the engine has inputs of the zero point 0"
    ):
        compressed(Residual(), torch.randn(8, 4, 8, 8), activations={"symmetric": False})


def test_its_time_is_not_told(tmp_path):
    made = paredown.export(nn.Linear(4, 4), (torch.randn(2, 4),), tmp_path / "m.onnx", engine="tensorrt")
    assert made.latency is None
    assert made.version.startswith("(checked by onnxruntime")
