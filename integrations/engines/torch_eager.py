"""`torch`: programs of `torch.export`, which PyTorch runs operator by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from paredown.framework.engine.contract import Engine, Session, Written
from paredown.framework.engine.plain import eval_copy
from paredown.framework.engine.profile import Profile
from paredown.framework.model.forward import Forward
from paredown.framework.model.graph.trace import tensors_of
from paredown.integrations.export.aten import AtenSpelling, arguments_of, load_program, save_program
from paredown.integrations.export.copy import export_copy
from paredown.integrations.export.tracing import traced
from paredown.integrations.sparse_layers import convert, is_converted

__all__ = ["TorchEager"]

FLOATS = "PyTorch's eager mode computes in floating point: compressed weights make no file faster there"
DENSE = "layers that skip zeros (sparse_layers) are dense in the file: torch.export knows no weights in CSR"


class TorchEager(Engine):
    """PyTorch's eager mode, the floor that is always there: a ``.pt2`` of aten operators.

    `torch.export.load` reads the file where paredown is not installed; ``.module()`` of what it gives is called like
    the model and returns a tuple of tensors. Weights are int8 (uint8, float8) buffers that the graph dequantizes, one
    byte each also for narrower ones; activations are clipped and rounded to their grid. It computes in floats: smaller,
    not faster. Batch-norms are folded into quantized layers. Zeros are skipped in eager models alone
    (`paredown.integrations.sparse_layers`): `torch.export` knows no weights in CSR, and the file of such a model is
    that of the dense one.

    Options: ``dynamic_shapes`` as of `torch.export.export`.
    """

    name: ClassVar = "torch"
    profile: ClassVar = Profile(integer={}, rounded=frozenset(), folds_constants=False)
    suffix: ClassVar = ".pt2"

    @property
    def version(self) -> str:
        return str(torch.__version__)

    def write(
        self,
        model: nn.Module,
        example_inputs: Any,
        path: Path,
        *,
        forward: Forward | None = None,
        dynamic: Sequence[str] = ("batch",),
        dynamic_shapes: Any = None,
        **options: Any,
    ) -> Written:
        written = export_copy(model, example_inputs, forward, AtenSpelling())
        trace = traced(written.model, example_inputs, forward, dynamic, dynamic_shapes)
        save_program(trace.program, path)
        zeros = [DENSE] if is_converted(model) else []
        return Written(path, modules=written.folded, dynamic=trace.dynamic, remarks=(*trace.remarks, FLOATS, *zeros))

    def zeros_pay(self, model: nn.Module, example_inputs: Any, forward: Forward | None = None) -> str:
        copied = eval_copy(model)
        told = convert(copied, example_inputs, forward=forward)
        if told.seconds is None:
            return "no layer of the eager model is faster for its zeros (sparse_layers)"
        before, after = told.seconds
        layers = f"{len(told.converted)} of {len(told.layers)} layers"
        return f"{before / after:.1f}x with sparse_layers, in the eager model ({layers}); files hold dense weights"

    def open(self, path: Path, *, threads: int = 1, results: Mapping[str, str] | None = None) -> Session:
        return TorchSession(load_program(path))


class TorchSession(Session):
    """A loaded program that is called with example inputs."""

    def __init__(self, program: Any) -> None:
        self.program, self.module = program, program.module()

    def run(self, example_inputs: Any) -> tuple[Tensor, ...]:
        args, kwargs = arguments_of(self.program, example_inputs)
        with torch.no_grad():
            return tensors_of(self.module(*args, **kwargs))
