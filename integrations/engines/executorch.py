"""`executorch`: ExecuTorch on the CPU, through its XNNPACK backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from paredown.framework.engine.contract import Engine, Session, Written
from paredown.framework.engine.profile import CONCATENATION, CONVOLUTION, LINEAR, RETURNED, SUM, Profile
from paredown.framework.errors import ExportError
from paredown.framework.model.forward import Forward
from paredown.integrations.export.calling import inputs_of, require, widened
from paredown.integrations.export.copy import export_copy
from paredown.integrations.export.executorch_program import Lowered, lower
from paredown.integrations.export.quantized_decomposed import DecomposedSpelling

__all__ = ["ExecuTorch"]

#: of a batch, where nothing else is said
LARGEST = 128
TOO_LARGE = "which may be more than largest_batch, for which memory was planned when the file was written"
NO_KERNEL = "XNNPACK has no integer kernel for"


class ExecuTorch(Engine):
    """ExecuTorch with its XNNPACK backend on the CPU: a ``.pte``; integer convolutions, products and sums.

    A result that is quantized with a fixed grid is computed in integers; so what the model returns, and what goes into
    floating-point operators, is rounded too. Inputs that are quantized as they come have a grid for each row, finer
    than the simulated one. Biases are int32. Layers that are computed in floating point have their weights in floats:
    ExecuTorch would unpack them in every run. Embeddings stay int8.

    Memory is planned for the largest batch when the file is written; a larger one is refused. How a layer is computed
    is known of files that the same engine object wrote: a ``.pte`` does not tell.

    Options: ``largest_batch`` [128], ``dynamic_shapes`` as of `torch.export.export`.
    """

    name: ClassVar = "executorch"
    profile: ClassVar = Profile(
        integer=MappingProxyType(
            {
                "static": frozenset({"Conv1d", "Conv2d", "Linear", "Conv1D"}),
                "dynamic": frozenset({"Linear", "Conv1D", "MultiheadAttention"}),
            }
        ),
        rounded=frozenset({CONVOLUTION, LINEAR, SUM, CONCATENATION, RETURNED}),
        folds_constants=False,
        reasons={
            **{kind: f"{NO_KERNEL} {kind}" for kind in ("Conv3d", "ConvTranspose1d", "ConvTranspose2d", "LSTM", "GRU")},
            "MultiheadAttention": "its products give results that nothing quantizes: use dynamic_quantization",
        },
    )
    needs: ClassVar = ("executorch",)
    install: ClassVar = "pip install 'paredown[executorch]'"
    suffix: ClassVar = ".pte"

    def __init__(self) -> None:
        self._lowered: dict[Path, Lowered] = {}

    def write(
        self,
        model: nn.Module,
        example_inputs: Any,
        path: Path,
        *,
        forward: Forward | None = None,
        dynamic: Sequence[str] = ("batch",),
        dynamic_shapes: Any = None,
        largest_batch: int = LARGEST,
        **options: Any,
    ) -> Written:
        written = export_copy(model, example_inputs, forward, DecomposedSpelling(signed=True, rounds_bias=True))
        lowered = lower(written.model, example_inputs, forward, dynamic, dynamic_shapes, largest_batch)
        path.write_bytes(lowered.content)
        self._lowered[path] = lowered
        layers = {name: name for name in lowered.layers}
        return Written(path, layers, written.folded, lowered.dynamic, lowered.remarks)

    def open(self, path: Path, *, threads: int = 1, results: Mapping[str, str] | None = None) -> Session:
        return ExecuTorchSession(path, threads, self._lowered.get(path))


class ExecuTorchSession(Session):
    """A loaded method that is called with example inputs."""

    def __init__(self, path: Path, threads: int, lowered: Lowered | None) -> None:
        self.path, self.lowered = path, lowered
        runtime = require("executorch.runtime", "executorch").Runtime.get()
        library = require("executorch.extension.pybindings.portable_lib", "executorch")
        if library._threadpool_get_thread_count() != threads:
            library._unsafe_reset_threadpool(threads)
        try:
            self.method = runtime.load_program(path).load_method("forward")
        except Exception as error:  # ExecuTorch raises whatever its parts do
            raise ExportError(f"{path}: ExecuTorch cannot load it: {error}") from error

    def run(self, example_inputs: Any) -> tuple[Tensor, ...]:
        given = [tensor.detach().cpu().contiguous() for tensor in inputs_of(widened(example_inputs))]
        try:
            return tuple(self.method.execute(given))
        except RuntimeError as error:
            sizes = [tuple(tensor.shape) for tensor in given]
            raise ExportError(f"{self.path}: ExecuTorch cannot run inputs of {sizes}, {TOO_LARGE}: {error}") from error

    @property
    def operators(self) -> Mapping[str, int]:
        return {} if self.lowered is None else self.lowered.operators

    @property
    def layers(self) -> Mapping[str, str]:
        return {} if self.lowered is None else self.lowered.layers
