"""What is left out of files of ONNX, and that they compute the same without it."""

import itertools

import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from paredown.integrations.export.onnx_file import write_onnx  # noqa: E402
from paredown.integrations.export.onnx_names import short_names  # noqa: E402


class Clashing(nn.Module):
    """Its parameters have the names that others would get, and it has zeros of both signs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))
        self.layer = nn.Conv1d(8, 8, 3, padding=1)
        with torch.no_grad():
            self.a *= torch.rand(8, 8) < 0.5

    def forward(self, x):
        return self.layer(torch.softmax(x @ self.a + self.b, 1).transpose(1, 2)).mean((1, 2))


def test_names_are_short_and_the_file_computes_the_same(tmp_path):
    torch.manual_seed(0)
    model, x = Clashing().eval(), torch.randn(3, 5, 8)
    written = write_onnx(model, (x,), tmp_path / "model.onnx")
    file = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(file, full_check=True)
    got = ReferenceEvaluator(file).run(None, {file.graph.input[0].name: x.numpy()})[0]
    assert torch.allclose(torch.from_numpy(got), model(x), atol=1e-6)
    ends = {each.name for each in (*file.graph.input, *file.graph.output)}
    names = {name for node in file.graph.node for name in (*node.input, *node.output)} - ends
    assert max(map(len, names)) <= 2
    layers = {node.op_type: node.name.partition("|")[0] for node in file.graph.node}
    assert (layers["Conv"], layers["MatMul"]) == ("layer", "")  # of the model itself
    assert set(written.results) == {"layer", ""}
    assert set(written.results.values()) <= names | ends


def test_notes_types_and_defaults_are_left_out(tmp_path):
    torch.manual_seed(0)
    write_onnx(Clashing().eval(), (torch.randn(3, 5, 8),), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert not graph.value_info
    assert not graph.metadata_props
    attributes = {attribute.name for node in graph.node for attribute in node.attribute}
    assert not attributes & {"auto_pad", "group", "noop_with_empty_axes", "saturate", "block_size"}
    assert {"pads", "axis"} <= attributes
    assert not any(node.doc_string or node.metadata_props for node in graph.node)


def test_matrices_have_one_zero(tmp_path):
    torch.manual_seed(0)
    model = Clashing().eval()
    assert torch.signbit(model.a[model.a == 0]).any()
    write_onnx(model, (torch.randn(3, 5, 8),), tmp_path / "model.onnx")
    arrays = [onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "model.onnx").graph.initializer]
    stored = next(torch.from_numpy(each.copy()) for each in arrays if each.shape == (8, 8))
    assert torch.equal(stored, model.a.detach())
    assert not torch.signbit(stored[stored == 0]).any()


def test_names_that_are_taken_are_left_out():
    assert list(itertools.islice(short_names({"1", "b"}), 12)) == [*"023456789a", "c", "d"]
    assert next(short_names({"_0"}, "_")) == "_1"
