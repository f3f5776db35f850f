"""`tensorrt`: files of ONNX as NVIDIA's TensorRT takes them, which builds its engine of them on the GPU.

Source: TensorRT's documentation, "Working with Quantized Types": explicit quantization by QuantizeLinear and
DequantizeLinear; https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

__all__ = ["TensorRt"]

BUILD = "TensorRT builds its engine of the file where its GPU is: trtexec --onnx=FILE --stronglyTyped --sparsity=enable"
NOT_RUN = "the file is checked by onnxruntime, as floating point between its codes; its time is TensorRT's on a GPU"


class TensorRt(Engine):
    """TensorRT on NVIDIA's GPUs: an ``.onnx`` with what surrounds its integer kernels, as its documentation asks.

    Inputs of convolutions and products are int8 with the zero point 0, weights int8 with scales along axis 0, biases
    floating point; sums and results stay as they are, so that TensorRT fuses them. Zeros stay zeros: weights of 2:4
    (``structure: "2:4"``) run on its sparse tensor cores. Groups of narrow weights are unpacked.

    Nothing of it is run here: onnxruntime evaluates the file without rewriting it, on the CPU, for the check. Speed is
    not measured.

    Options: those of `paredown.integrations.engines.onnxruntime`.
    """

    name: ClassVar = "tensorrt"
    profile: ClassVar = Profile(
        integer=MappingProxyType({"static": CONVOLUTIONS | PRODUCTS}),
        rounded=frozenset(),
        symmetric_inputs=True,
        reasons={"dynamic": "TensorRT's scales are fixed when the engine is built: use static_quantization"},
    )
    needs: ClassVar = ("onnx", "onnxscript", "onnxruntime")
    install: ClassVar = "pip install 'paredown[onnx]'"
    suffix: ClassVar = ".onnx"
    untimed: ClassVar = NOT_RUN

    @property
    def version(self) -> str:
        """Of onnxruntime, which checks the file."""
        return f"(checked by onnxruntime {require('onnxruntime', 'onnx').__version__})"

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
        options = {"recurrent": False, "narrow": False, "integer_bias": False, "signed": True, **options}
        written = write_onnx(model, example_inputs, path, forward=forward, dynamic=dynamic, **options)
        remarks = (*written.remarks, BUILD)
        return Written(path, written.results, written.modules, written.dynamic, remarks)

    def zeros_pay(self, model: nn.Module, example_inputs: Any, forward: Forward | None = None) -> str:
        return "zeros of 2:4 are skipped by its sparse tensor cores, others are not; its time is not measured here"

    def open(self, path: Path, *, threads: int = 1, results: Mapping[str, str] | None = None) -> Session:
        return TensorRtSession(path, threads)


class TensorRtSession(Session):
    """The file as it stands, in onnxruntime: nothing is fused, so that integers are rounded as the file says."""

    def __init__(self, path: Path, threads: int) -> None:
        runtime = require("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has exceptions of its own
            raise ExportError(f"{path}: onnxruntime cannot load it: {error}") from error
        self.names = [each.name for each in self.session.get_inputs()]

    def run(self, example_inputs: Any) -> tuple[Tensor, ...]:
        given = self.session.run(None, arrays_by_name(example_inputs, self.names))
        return tuple(torch.as_tensor(each) for each in given)
