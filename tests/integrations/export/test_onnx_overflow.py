import pytest
import torch

onnx = pytest.importorskip("onnx")

import numpy as np  # noqa: E402

from paredown.integrations.engines.openvino import OpenVino  # noqa: E402
from paredown.integrations.export.limited_pairs import LARGEST_PAIR  # noqa: E402
from paredown.integrations.export.onnx_overflow import limit_pairs  # noqa: E402


def written(path, nodes):
    """A file whose nodes, by name, unpack these codes, all with the scale that is shared."""
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("DequantizeLinear", [codes, "scale", "zero"], [name], name=name, axis=0)
            for name, (codes, _) in nodes.items()
        ],
        "graph",
        [],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in nodes],
        [
            onnx.numpy_helper.from_array(np.linspace(0.5, 1, 4, dtype=np.float32), "scale"),
            onnx.numpy_helper.from_array(np.zeros(4, np.int8), "zero"),
            *(onnx.numpy_helper.from_array(values, codes) for codes, values in dict(nodes.values()).items()),
        ],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]), path)


def unpacked(path):
    """By the names of nodes what they give."""
    model = onnx.load(path)
    known = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    return {node.name: known[node.input[0]] * known[node.input[1]][:, None] for node in model.graph.node}, known


@pytest.mark.parametrize("shared", [False, True], ids=["a scale that two layers share", "and codes"])
def test_pairs_are_limited_and_nothing_else_changes(tmp_path, shared):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (2, 4, 6), generator=generator).to(torch.int8).numpy()
    second = ("first_codes", codes[0]) if shared else ("second_codes", codes[1])
    path = tmp_path / "model.onnx"
    written(path, {"first|0": ("first_codes", codes[0]), "second|1": second})
    before, _ = unpacked(path)
    assert limit_pairs(path, "first")
    after, known = unpacked(path)
    assert abs(known["first_codes"].astype(int).reshape(4, 3, 2).sum(2)).max() <= LARGEST_PAIR + 1
    for name in before:  # at most half a step of a scale that is at most twice as large
        assert abs(after[name] - before[name]).max() <= 1.0
    assert shared == bool((after["second|1"] != before["second|1"]).any())
    assert limit_pairs(path, "second") == (not shared)
    again, _ = unpacked(path)
    assert (again["first|0"] == after["first|0"]).all()


def test_where_the_first_layer_cannot_overflow_the_next_is_limited(tmp_path):
    codes = torch.randint(-127, 128, (2, 4, 6), generator=torch.Generator().manual_seed(0)).to(torch.int8).numpy()
    path, engine = tmp_path / "model.onnx", OpenVino()
    written(path, {"first|0": ("first_codes", codes[0] // 4), "second|1": ("second_codes", codes[1])})
    before, _ = unpacked(path)
    assert engine.mend(path, [], ["first", "second"]) is not None
    after, _ = unpacked(path)
    assert (after["first|0"] == before["first|0"]).all()
    assert (after["second|1"] != before["second|1"]).any()
    assert engine.mend(path, [], ["first", "second"]) is None
    assert engine.mend(path, [], []) is None
