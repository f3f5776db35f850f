"""`openvino`: OpenVINO on the CPU, which reads our files of ONNX."""

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
from paredown.integrations.export.limited_pairs import LIMITED
from paredown.integrations.export.onnx_file import write_onnx
from paredown.integrations.export.onnx_graph import computed_by_layer
from paredown.integrations.export.onnx_overflow import limit_pairs
from paredown.integrations.export.openvino_xml import compact
from paredown.integrations.export.packing import pack_file

__all__ = ["OpenVino"]

#: floating point as it is, not bfloat16 on processors that have it: so that files can be compared
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
INTEGER = ("u8", "i8")
#: neither CumSum, nor scattering of bytes
FOLDS = {
    "Div": frozenset({"int32"}),
    "Mod": frozenset({"int32"}),
    "MatMul": frozenset({"float32"}),
    "NonZero": frozenset({"int32"}),
    "ScatterElements": frozenset({"int32", "int64", "float32"}),
}
#: bytes that the ``.xml`` takes for an operator or a constant, beside what it takes in an ``.onnx``
XML = 300
NOT_RECOGNISED = "OpenVINO does not recognise inputs that are quantized as they come: use static_quantization"


class OpenVino(Engine):
    """OpenVINO on the CPU: an ``.xml`` with its weights in a ``.bin``, or an ``.onnx``; integer convolutions, products
    and sums.

    Inputs that are quantized as they come (dynamic_quantization) are computed in floating point there, and then only
    the weights are rounded. It computes in float32 also where the processor has bfloat16.

    Options: those of `paredown.integrations.engines.onnxruntime`.
    """

    name: ClassVar = "openvino"
    profile: ClassVar = Profile(
        integer=MappingProxyType({"static": CONVOLUTIONS | PRODUCTS}),
        reasons={"dynamic": NOT_RECOGNISED},
        folds=MappingProxyType(FOLDS),
    )
    needs: ClassVar = ("openvino", "onnx", "onnxscript")
    install: ClassVar = "pip install 'paredown[openvino]'"
    suffix: ClassVar = ".xml"

    def __init__(self) -> None:
        self._sources: dict[Path, tuple[bytes, tuple[str, ...]]] = {}

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
        options = {"recurrent": False, "narrow": False, "integer_bias": False, **options}
        if _is_onnx(path):
            return write_onnx(model, example_inputs, path, forward=forward, dynamic=dynamic, **options)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            written = write_onnx(model, example_inputs, source, forward=forward, dynamic=dynamic, **options)
            _convert(source, path, written.results.values())
            self._sources[path] = source.read_bytes(), tuple(written.results.values())
        return Written(path, written.results, written.modules, written.dynamic, written.remarks)

    def mend(self, path: Path, samples: Sequence[Any], layers: Sequence[str]) -> str | None:
        if _is_onnx(path):
            return LIMITED if _limited(path, layers) else None
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            content, results = self._sources[path]
            source.write_bytes(content)
            if not _limited(source, layers):
                return None
            _convert(source, path, results)
            self._sources[path] = source.read_bytes(), results
        return LIMITED

    def pack(self, path: Path, target: Path, plain: Collection[str] = ()) -> Mapping[str, str]:
        if _is_onnx(path):
            return pack_file(path, target, self.profile.folds, plain)
        with tempfile.TemporaryDirectory() as folder:
            source, packed = (Path(folder) / f"{name}.onnx" for name in ("plain", "packed"))
            content, results = self._sources[path]
            source.write_bytes(content)
            made = pack_file(source, packed, self.profile.folds, plain, XML)
            _convert(packed, target, results, unpacked=False)
        return made

    def opening(self, path: Path) -> tuple[str, str] | None:
        settings = {**PRECISION, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        return "import openvino", f"openvino.Core().compile_model({str(path)!r}, 'CPU', {settings})"

    def open(self, path: Path, *, threads: int = 1, results: Mapping[str, str] | None = None) -> Session:
        return OpenVinoSession(path, threads, results or {})

    def files(self, path: Path) -> list[Path]:
        if _is_onnx(path):
            return super().files(path)
        return [each for each in (path, path.with_suffix(".bin")) if each.is_file()]


class OpenVinoSession(Session):
    """A compiled model that is called with example inputs."""

    def __init__(self, path: Path, threads: int, results: Mapping[str, str]) -> None:
        openvino = require("openvino", "openvino")
        core = openvino.Core()
        try:
            model = core.read_model(path)
            self.outputs = len(model.outputs)
            self.results = {layer: name for layer, name in results.items() if _added(model, name)}
            settings = {**PRECISION, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
            self.compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # OpenVINO has exceptions of its own
            raise ExportError(f"{path}: OpenVINO cannot load it: {error}") from error
        self.names = [each.get_any_name() for each in self.compiled.inputs]
        self.request = self.compiled.create_infer_request()

    def run(self, example_inputs: Any) -> tuple[Tensor, ...]:
        return self._run(example_inputs)[: self.outputs]

    def run_inside(self, example_inputs: Any) -> Mapping[str, Tensor]:
        self._run(example_inputs)
        return {
            layer: torch.from_numpy(self.request.get_tensor(self.compiled.output(name)).data.copy())
            for layer, name in self.results.items()
        }

    def _run(self, example_inputs: Any) -> tuple[Tensor, ...]:
        arrays = arrays_by_name(example_inputs, self.names).values()
        found = self.request.infer(dict(enumerate(arrays)))
        return tuple(torch.from_numpy(found[place].copy()) for place in range(len(self.compiled.outputs)))

    @property
    def operators(self) -> Mapping[str, int]:
        nodes = self.compiled.get_runtime_model().get_ops()
        kinds = (f"{_info(node, 'layerType')} {_info(node, 'runtimePrecision')}" for node in nodes)
        return dict(Counter(kinds).most_common())

    @property
    def layers(self) -> Mapping[str, str]:
        nodes = self.compiled.get_runtime_model().get_ops()
        return computed_by_layer(
            (name, _info(node, "runtimePrecision") in INTEGER)
            for node in nodes
            if _info(node, "layerType") not in ("Const", "Reorder")
            for name in _info(node, "originalLayersNames").split(",")
        )


def _convert(source: Path, path: Path, results: Collection[str], unpacked: bool = True) -> None:
    """An ``.onnx`` as an ``.xml``.

    Args:
        unpacked: with the values of what reads constants alone.
    """
    openvino = require("openvino", "openvino")
    try:
        if unpacked:
            openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
        else:
            openvino.serialize(openvino.Core().read_model(source), path)
    except Exception as error:  # OpenVINO has exceptions of its own
        raise ExportError(f"{path}: OpenVINO cannot convert the model: {error}") from error
    compact(path, results)


def _is_onnx(path: Path) -> bool:
    return path.suffix == ".onnx"


def _limited(path: Path, layers: Sequence[str]) -> bool:
    """Limit the weights of the first layer in which there is anything to limit; whether there was one."""
    return any(limit_pairs(path, layer) for layer in layers)


def _info(node: Any, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


def _added(model: Any, name: str) -> bool:
    """Whether a value of the graph is an output, or could be made one."""
    if any(name in output.get_names() for output in model.outputs):
        return True
    try:
        model.add_outputs(name)
    except RuntimeError:
        return False
    return True
