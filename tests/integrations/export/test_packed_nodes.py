import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from paredown.integrations.export.onnx_names import short_names  # noqa: E402
from paredown.integrations.export.packed_codes import Entries, codes_of  # noqa: E402
from paredown.integrations.export.packed_nodes import Tape, known_positions, write  # noqa: E402

TYPES = frozenset({"int8", "uint8", "int32", "int64", "float32"})
#: forms of unpacking: with bytes that are shifted and sums, and in 32 bits without both
FORMS = {
    "shifts and sums": {"BitShift": TYPES, "CumSum": TYPES, "ScatterElements": TYPES},
    "products": dict.fromkeys(("Div", "Mod", "MatMul", "NonZero"), TYPES)
    | {"ScatterElements": frozenset({"int32", "int64", "float32"})},
}


def filled(shape, kind, share, background=0):
    """Random numbers, of which a share is the same."""
    generator = np.random.default_rng(0)
    values = (generator.standard_normal(shape) * 40).astype(kind)
    values[generator.random(shape) < share] = background
    return values


def few(shape, kind, count):
    """Random numbers out of so many."""
    generator = np.random.default_rng(0)
    return (generator.standard_normal(count) * 40).astype(kind)[generator.integers(0, count, shape)]


def special():
    """-0.0 among zeros, infinities, and two NaNs with different bits; a gap of almost the whole length."""
    values = np.zeros((3000, 2), np.float32)
    values[1, 0], values[7, 1], values[2, 0] = -0.0, np.nan, np.inf
    values[2999, 1] = np.array(0x7FC00123, np.uint32).view(np.float32)
    return values


ARRAYS = {
    "float": filled((9, 5, 3, 3), np.float32, 0.8),
    "int8": filled((31, 17), np.int8, 0.6),
    "unsigned around 128": filled((31, 17), np.uint8, 0.9, 128),
    "biases": filled((37,), np.int32, 0.0) * 300,
    "wide biases": filled((37,), np.int32, 0.3) * 3000,
    "sizes": filled((12,), np.int64, 0.5),
    "one value": np.full((6, 5), 3, np.int8),
    "one number": np.array([2.5], np.float32),
    "two": np.array([1, 2], np.int8),
    "16 values": few((14, 11), np.float32, 16),
    "3 values": few((14, 11), np.int8, 3),
    "256 values": few((40, 30), np.float32, 256),
    "special": special(),
}


def unpacked(tape, array):
    """What the nodes compute, by onnx's own evaluator, in the oldest operators that are written."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    output = onnx.helper.make_tensor_value_info(tape.nodes[-1].output[0], kind, array.shape)
    graph = onnx.helper.make_graph(tape.nodes, "graph", [], [output], tape.constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    return ReferenceEvaluator(model).run(None, {})[0], graph.ByteSize()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ARRAYS)
def test_every_code_gives_the_same_bits_and_takes_the_bytes_that_are_told(name, form):
    array, folds = ARRAYS[name], FORMS[form]
    seen = set()
    for turned in (False, True) if array.ndim > 1 else (False,):
        entries = Entries(array, turned)
        for code in codes_of(entries, turned, known_positions(folds)):
            tape = Tape({}, short_names(()))
            write(tape, folds, entries, code, array.shape)
            if not tape.nodes:  # the array as it is
                continue
            found, size = unpacked(tape, array)
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes()), code
            assert 0 <= size - tape.bytes < 64  # the rest is the graph's own name and output
            seen.add(code.positions)
    assert seen == ({"none"} if len(np.unique(array)) == 1 else {"all", "mask", "gaps"})


def test_constants_are_shared():
    names, entries = short_names(()), Entries(ARRAYS["int8"], False)
    code = next(code for code in codes_of(entries, False, ["gaps"]) if code.positions == "gaps")
    first = Tape({}, names)
    write(first, FORMS["products"], entries, code, (31, 17))
    second = Tape(first.shared, names)
    write(second, FORMS["products"], entries, code, (31, 17))
    assert not second.constants
    assert second.bytes < first.bytes
