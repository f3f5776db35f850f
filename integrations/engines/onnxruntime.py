"""`onnxruntime`: files of ONNX on the CPU."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from paredown.framework.engine.contract import Engine, Session, Written
from paredown.framework.engine.profile import CONVOLUTIONS, PRODUCTS, Profile
from paredown.framework.errors import ExportError
from paredown.framework.model.forward import Forward
from paredown.integrations.export.calling import arrays_by_name, require
from paredown.integrations.export.onnx_file import write_onnx
from paredown.integrations.export.onnx_graph import computed_by_layer
from paredown.integrations.export.onnx_overflow import use_unsigned_weights
from paredown.integrations.export.packing import pack_file

__all__ = ["OnnxRuntime"]

UNSIGNED = (
    "signed weights overflow on this processor, which has no VNNI: where they do they are written as uint8, which is "
    "exact everywhere, and slower here; weights of 7 bits never overflow, and are as fast as signed ones; export on a "
    "processor with VNNI for what runs on such"
)
NO_KERNEL = "onnxruntime has no integer kernel for"
#: in the names of operators that compute in integers
INTEGER = ("QLinear", "QGemm", "Integer", "DynamicQuantize")
#: not NonZero, whose shape depends on values
FOLDS = {
    "BitShift": frozenset({"uint8"}),
    "CumSum": frozenset({"int32"}),
    "ScatterElements": frozenset({"int8", "uint8", "int32", "int64", "float32"}),
}


class OnnxRuntime(Engine):
    """onnxruntime on the CPU: integer convolutions, products, sums and concatenations; LSTMs with dynamic inputs.

    What ONNX's QuantizeLinear and DequantizeLinear surround it computes in integers. Transposed convolutions and GRUs
    have no integer kernel: their weights are stored as integers and unpacked when the file is opened. On processors
    without VNNI products of unsigned inputs and signed weights overflow in 16 bits; where that shows, weights are
    written as uint8, which does not, and is slower there.

    Options: ``opset`` [21], 13 or newer; ``dynamic_shapes``, ``input_names``, ``output_names`` as of
    `torch.onnx.export`.
    """

    name: ClassVar = "onnxruntime"
    profile: ClassVar = Profile(
        integer=MappingProxyType(
            {"static": CONVOLUTIONS | PRODUCTS, "dynamic": PRODUCTS | {"LSTM"}},
        ),
        reasons={
            **{kind: f"{NO_KERNEL} {kind}" for kind in ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")},
            **{kind: f"{NO_KERNEL} {kind}" for kind in ("GRU", "RNN")},
            "LSTM": "onnxruntime's integer LSTM quantizes inputs as they come: use dynamic_quantization",
        },
        folds=MappingProxyType(FOLDS),
    )
    needs: ClassVar = ("onnx", "onnxscript", "onnxruntime")
    install: ClassVar = "pip install 'paredown[onnx]'"
    suffix: ClassVar = ".onnx"

    def write(
        self,
        model: nn.Module,
        example_inputs: Any,
        path: Path,
        *,
        forward: Forward | None = None,
        dynamic: Sequence[str] = ("batch",),
        **options: Any,
    ) -> Written:
        return write_onnx(model, example_inputs, path, forward=forward, dynamic=dynamic, **options)

    def mend(self, path: Path, samples: Sequence[Any], layers: Sequence[str]) -> str | None:
        opened = OnnxSession(path, 1, {})
        feeds = [arrays_by_name(each, opened.names) for each in samples]

        def run(content: bytes) -> list[Any]:
            session = _session(content, 1)
            return [output for each in feeds for output in session.run(None, each)]

        return UNSIGNED if use_unsigned_weights(path, run) else None

    def pack(self, path: Path, target: Path, plain: Collection[str] = ()) -> Mapping[str, str]:
        return pack_file(path, target, self.profile.folds, plain)

    def opening(self, path: Path) -> tuple[str, str] | None:
        options = "options = onnxruntime.SessionOptions(); options.intra_op_num_threads = 1"
        session = f"onnxruntime.InferenceSession({str(path)!r}, options, providers=['CPUExecutionProvider'])"
        return f"import onnxruntime; {options}", session

    def open(self, path: Path, *, threads: int = 1, results: Mapping[str, str] | None = None) -> Session:
        return OnnxSession(path, threads, results or {})


class OnnxSession(Session):
    """An onnxruntime session that is called with example inputs."""

    def __init__(self, path: Path, threads: int, results: Mapping[str, str]) -> None:
        onnx = require("onnx", "onnx")
        self.results = dict(results)
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            opened = _with_outputs(onnx, path, list(self.results.values()), Path(folder)) if results else path
            try:
                self.session = _session(str(opened), threads, optimized)
            except Exception as error:  # onnxruntime has exceptions of its own
                raise ExportError(f"{path}: onnxruntime cannot load it: {error}") from error
            graph = onnx.load(optimized, load_external_data=False).graph
        self.nodes = [(node.op_type, node.name) for node in graph.node]
        self.names = [each.name for each in self.session.get_inputs()]
        self.outputs = len(self.session.get_outputs()) - len(self.results)

    def run(self, example_inputs: Any) -> tuple[Tensor, ...]:
        return self._run(example_inputs)[: self.outputs]

    def run_inside(self, example_inputs: Any) -> Mapping[str, Tensor]:
        return dict(zip(self.results, self._run(example_inputs)[self.outputs :], strict=True))

    def _run(self, example_inputs: Any) -> tuple[Tensor, ...]:
        given = self.session.run(None, arrays_by_name(example_inputs, self.names))
        return tuple(torch.as_tensor(each) for each in given)

    @property
    def operators(self) -> Mapping[str, int]:
        return dict(Counter(kind for kind, _ in self.nodes).most_common())

    @property
    def layers(self) -> Mapping[str, str]:
        return computed_by_layer((name, any(part in kind for part in INTEGER)) for kind, name in self.nodes)


def _session(model: str | bytes, threads: int, optimized: Path | None = None) -> Any:
    """A session of onnxruntime.

    Args:
        model: a path, or the content of a file.
        optimized: where the graph that it makes of the file is written.
    """
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _with_outputs(onnx: Any, path: Path, names: Sequence[str], folder: Path) -> Path:
    """A copy of a file that gives further values of its graph too."""
    model = onnx.load(path)
    own = {output.name for output in model.graph.output}
    for name in names:
        if name in own:  # an output cannot be named twice
            node = onnx.helper.make_node("Identity", [name], [f"{name}_again"])
            model.graph.node.append(node)
            name = node.output[0]
        model.graph.output.append(onnx.ValueInfoProto(name=name))  # of the type that onnxruntime infers
    copied = folder / path.name
    onnx.save(model, copied, save_as_external_data=model.ByteSize() > 2**30)
    return copied
