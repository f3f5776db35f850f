"""Files of older opsets: what each operator becomes computes the same in onnxruntime, and what cannot be said is an error."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sample_models import recipe_of
from torch import nn

import paredown
from paredown import ExportError, Recipe, ScheduledManager
from paredown.integrations.export.onnx_versions import lower_

X = np.random.default_rng(0).standard_normal((2, 4, 6, 5)).astype(np.float32)
VECTOR = np.linspace(0.5, 2, 4, dtype=np.float32)
GRID = np.random.default_rng(1).uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)


def model_of(operator, constants, kind=TensorProto.FLOAT, rank=None, **attributes):
    """A model of opset 21 with one node."""
    names = [f"c{number}" for number in range(len(constants))]
    node = helper.make_node(operator, ["x", *names], ["y"], "layer|node", **attributes)
    initializers = [numpy_helper.from_array(each, name) for each, name in zip(constants, names, strict=True)]
    sizes = ["batch", *X.shape[1:]]
    inputs, outputs = (
        helper.make_tensor_value_info(name, kind, shape)
        for name, shape in (("x", sizes), ("y", rank and [None] * rank))
    )
    if operator == "Shape":
        outputs.type.tensor_type.elem_type = TensorProto.INT64
    graph = helper.make_graph([node], "g", [inputs], [outputs], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def outputs(model, x=X):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


INTEGERS = {name: np.array(value, np.int64) for name, value in {"axes": [1, -1], "one": [1], "shape": [0, -1]}.items()}
CASES = {
    **{
        f"Reduce{kind}": (f"Reduce{kind}", [INTEGERS["axes"]], {"keepdims": 0})
        for kind in ("Max", "Min", "Mean", "Prod", "L1", "L2", "LogSumExp", "SumSquare", "Sum")
    },
    "no axes": ("ReduceMean", [], {"noop_with_empty_axes": 1}),
    "all axes": ("ReduceMean", [], {}),
    "Gelu": ("Gelu", [], {}),
    "Gelu, tanh": ("Gelu", [], {"approximate": "tanh"}),
    "HardSwish": ("HardSwish", [], {}),
    "Mish": ("Mish", [], {}),
    "LayerNormalization": ("LayerNormalization", [X[0, 0], X[1, 0]], {"axis": 2, "epsilon": 1e-3}),
    "without shift": ("LayerNormalization", [X[0, 0, 0]], {}),
    "GroupNormalization": ("GroupNormalization", [VECTOR, -VECTOR], {"num_groups": 2}),
    "GridSample": ("GridSample", [GRID], {"mode": "linear"}),
    "Reshape": ("Reshape", [np.array([-1, 30], np.int64)], {"allowzero": 1}),
    "Shape": ("Shape", [], {"start": 1, "end": -1}),
    "Split": ("Split", [], {"axis": 2, "num_outputs": 1}),
    "Pad": ("Pad", [np.array([1, 0, 2, 1], np.int64), np.float32(3), INTEGERS["axes"]], {}),
    "upper": ("Trilu", [np.array(1, np.int64)], {"upper": 1}),
    "lower": ("Trilu", [np.array(-1, np.int64)], {"upper": 0}),
    "whole": ("Trilu", [], {}),
    "AveragePool": ("AveragePool", [], {"kernel_shape": [2, 2], "dilations": [1, 1]}),
}
LEAST = {"GridSample": 16}


@pytest.mark.parametrize("case", CASES)
def test_older_operators_compute_the_same(case):
    operator, constants, attributes = CASES[case]
    want = outputs(model_of(operator, constants, **attributes))
    model = model_of(operator, constants, rank=want.ndim, **attributes)
    for opset in (13, 14, 16, 17, 18, 20):
        if opset < LEAST.get(case, 13):
            continue
        older = onnx.ModelProto.FromString(model.SerializeToString())
        lower_(older, opset)
        assert older.opset_import[0].version == opset
        assert older.ir_version == {13: 7, 14: 7, 16: 8, 17: 8, 18: 8, 20: 9}[opset]
        assert all(node.name.startswith("layer|") for node in older.graph.node)
        assert np.allclose(outputs(older), want, rtol=1e-5, atol=1e-5), opset


def test_what_the_older_version_lacks_is_named_with_the_layer_and_the_version():
    with pytest.raises(ExportError, match=r"opset 13: layer layer needs opset 16 \(GridSample: there is no such"):
        lower_(model_of("GridSample", [GRID]), 13)
    with pytest.raises(ExportError, match=r"layer layer needs opset 18 \(Resize: it has no attribute antialias"):
        scales = np.array([1, 1, 0.5, 0.5], np.float32)
        lower_(model_of("Resize", [np.zeros(0, np.float32), scales], antialias=1, mode="linear"), 17)
    with pytest.raises(ExportError, match=r"layer layer needs opset 14 \(Reshape: it has no attribute allowzero"):
        lower_(model_of("Reshape", [np.array([0, 4, 30], np.int64)], allowzero=1), 13)
    with pytest.raises(ExportError, match=r"layer layer needs opset 14 \(Add: it takes no int8"):
        lower_(model_of("Add", [np.ones(5, np.int8)], TensorProto.INT8), 13)


@pytest.mark.parametrize("opset", [12, 1000, 17.0, True, "17"])
def test_unknown_versions_are_refused(opset, tmp_path):
    with pytest.raises(ExportError, match="a number from 13 to"):
        paredown.export(nn.Linear(4, 4), (torch.randn(2, 4),), tmp_path / "m.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


def grouped():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), torch.randn(8, 64)
    recipe = recipe_of(1, q={"type": "weight_quantization", "weights": {"bits": 4, "group_size": 16}})
    ScheduledManager(Recipe.load(recipe)).apply(model, data=[(x,)])
    return model, x


def test_groups_of_narrow_weights_need_21_or_are_stored_as_bytes(tmp_path):
    model, x = grouped()
    with pytest.raises(
        ExportError, match="opset 13: layer 0 needs opset 21 .*narrow=False stores such weights as int8"
    ):
        paredown.export(model, (x,), tmp_path / "m.onnx", opset=13)
    assert not list(tmp_path.iterdir())
    made = paredown.export(model, (x,), tmp_path / "m.onnx", opset=13, narrow=False, repetitions=0)
    kinds = {each.data_type for each in onnx.load(made.path).graph.initializer}
    assert TensorProto.INT8 in kinds
    assert TensorProto.INT4 not in kinds
