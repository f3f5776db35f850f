import pytest

ir = pytest.importorskip("onnx_ir")

import numpy as np  # noqa: E402

from paredown.integrations.export.onnx_graph import give_own_zero_points  # noqa: E402


def constant(name, values):
    tensor = ir.tensor(values, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)


@pytest.mark.parametrize("readers", [1, 2, 3, 5])
def test_each_reader_of_a_stored_weight_has_its_own_zero_point(readers):
    """Also where several nodes read the same codes: onnxruntime cannot change the type of a shared one."""
    codes, scale, zero = (
        constant("codes", np.ones((2, 3), np.int8)),
        constant("scale", np.float32(0.5)),
        constant("zero", np.int8(0)),
    )
    nodes = [ir.Node("", "DequantizeLinear", [codes, scale, zero]) for _ in range(readers)]
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([], outputs, nodes=nodes, initializers=[codes, scale, zero], opset_imports={"": 21})
    give_own_zero_points(ir.Model(graph, ir_version=10))
    zeros = [node.inputs[2] for node in graph]
    assert len({value.name for value in zeros}) == readers
    assert all(value.name in graph.initializers and value.const_value.numpy() == 0 for value in zeros)
