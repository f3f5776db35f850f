import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from paredown.integrations.engines.onnxruntime import FOLDS  # noqa: E402
from paredown.integrations.export.packed_products import products_of  # noqa: E402
from paredown.integrations.export.packing import pack_file, packed  # noqa: E402

SIZE = 64


def sparse(seed=0):
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((SIZE, SIZE)).astype(np.float32)
    return np.where(generator.random((SIZE, SIZE)) < 0.1, values, np.float32(0))


def model_of(constants, nodes, inputs=("x",), opset=13):
    kind = onnx.TensorProto.FLOAT
    given = [onnx.helper.make_tensor_value_info(name, kind, ["n", SIZE]) for name in inputs]
    graph = onnx.helper.make_graph(
        nodes, "graph", given, [onnx.helper.make_tensor_value_info("y", kind, ["n", SIZE])],
        [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=7)


def outputs(content):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(1).standard_normal((3, SIZE)).astype(np.float32)})[0]


def product(left, right, result):
    return onnx.helper.make_node("MatMul", [left, right], [result])


def test_a_packed_file_gives_the_same_bits_in_fewer_bytes(tmp_path):
    plain, target = tmp_path / "plain.onnx", tmp_path / "packed.onnx"
    model = model_of({"a": sparse(), "b": sparse(1)}, [product("x", "a", "h"), product("h", "b", "y")])
    model.graph.node[1].name = "head|4"
    onnx.save(model, plain)
    made = pack_file(plain, target, FOLDS)
    assert made == {"a": "a, 64 x 64", "b": "b, 64 x 64 of the layer head"}
    assert target.stat().st_size < plain.stat().st_size / 5
    assert outputs(plain.read_bytes()).tobytes() == outputs(target.read_bytes()).tobytes()


def test_what_is_named_and_what_is_asked_from_outside_stays():
    model = model_of({"a": sparse(), "b": sparse(1)}, [product("x", "a", "h"), product("h", "b", "y")])
    model.graph.input.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [SIZE, SIZE]))
    assert not packed(model, FOLDS, ["a"])
    assert [each.name for each in model.graph.initializer] == ["a", "b"]


def test_dense_numbers_stay_as_they_are():
    dense = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    model = model_of({"a": dense}, [product("x", "a", "y")])
    assert not packed(model, FOLDS)
    assert len(model.graph.node) == 1


def test_names_of_the_file_are_not_taken_again():
    model = model_of({"_0": sparse(), "_1": sparse(1)}, [product("x", "_0", "_2"), product("_2", "_1", "y")])
    want = outputs(model.SerializeToString())
    packed(model, FOLDS)
    made = [value for node in model.graph.node for value in node.output]
    assert len(made) == len(set(made))
    assert outputs(model.SerializeToString()).tobytes() == want.tobytes()


def test_a_constant_that_a_graph_inside_reads_is_unpacked_for_it():
    kind = onnx.TensorProto.FLOAT
    branches = {
        name: onnx.helper.make_graph(
            [product("x", weight, f"{name}_y")], name, [], [onnx.helper.make_tensor_value_info(f"{name}_y", kind, None)]
        )
        for name, weight in (("then_branch", "a"), ("else_branch", "b"))
    }
    nodes = [
        onnx.helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        onnx.helper.make_node("Cast", ["s"], ["c"], to=onnx.TensorProto.BOOL),
        onnx.helper.make_node("If", ["c"], ["y"], **branches),
    ]
    model = model_of({"a": sparse(), "b": sparse(1)}, nodes)
    want = outputs(model.SerializeToString())
    assert list(packed(model, FOLDS)) == ["a", "b"]
    assert outputs(model.SerializeToString()).tobytes() == want.tobytes()


def test_scales_of_biases_are_products():
    scale = np.random.default_rng(0).random(20).astype(np.float32)
    number = np.float32(0.037)
    vectors = {"bias": scale * number, "weight": scale, "other": scale * np.float32(0.05), "bias again": scale * number}
    assert products_of(vectors, {"x": number, "z": np.float32(0.9)}) == {
        "bias": ("weight", "x"),
        "bias again": ("weight", "x"),
    }
