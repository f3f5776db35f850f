"""`inductor`: PyTorch's own compiler, which makes C++ of a program when the file is opened."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from paredown.framework.engine.contract import Engine, Session, Written
from paredown.framework.engine.profile import Profile
from paredown.framework.errors import ExportError
from paredown.framework.model.forward import Forward
from paredown.framework.model.graph.trace import tensors_of
from paredown.integrations.export.aten import arguments_of, load_program, save_program
from paredown.integrations.export.calling import quiet, reason_of
from paredown.integrations.export.copy import export_copy
from paredown.integrations.export.decomposed_graph import rearrange_
from paredown.integrations.export.decomposed_overflow import limit_pairs_
from paredown.integrations.export.limited_pairs import LIMITED
from paredown.integrations.export.quantized_decomposed import DecomposedSpelling, decomposed
from paredown.integrations.export.tracing import traced

__all__ = ["Inductor"]

COMPILED = "compiled when it is opened, for each size of a batch: that takes seconds to minutes, in every process"
#: weights become constants, which oneDNN packs for its integer kernels
SETTINGS = {"freezing": True}


class Inductor(Engine):
    """PyTorch's inductor on the CPU: a ``.pt2`` that is compiled when it is opened; integer convolutions and products.

    The file is a program of `torch.export` whose quantization is written in ``torch.ops.quantized_decomposed``. It is
    as small as its int8 weights, and holds no machine code: that is made for the processor on which it is opened, by a
    C++ compiler there. Elsewhere than in paredown, import ``torch.ao.quantization.fx._decomposed`` before
    `torch.export.load`, and call ``torch.compile(program.module(), dynamic=False)`` under ``torch.no_grad`` with
    ``torch._inductor.config.freezing = True``. PyTorch's own passes put oneDNN's kernels in; nothing else is needed.

    It is compiled anew for each size of a batch. Weights that meet inputs in floating point are unpacked then. How a
    single layer is computed inductor does not tell; ``operators`` counts what it calls.

    Options: ``dynamic_shapes`` as of `torch.export.export`.
    """

    name: ClassVar = "inductor"
    profile: ClassVar = Profile(
        integer=MappingProxyType(
            {
                "static": frozenset({"Conv2d", "Linear", "Conv1D"}),
                "dynamic": frozenset({"Linear", "Conv1D", "MultiheadAttention"}),
            }
        ),
        granularities=frozenset({"tensor", "channel"}),
        reasons={"MultiheadAttention": "oneDNN's products want inputs of their own: use dynamic_quantization"},
    )
    suffix: ClassVar = ".pt2"

    @classmethod
    def missing(cls) -> str | None:
        from torch._inductor import cpp_builder

        with quiet("torch"):
            try:
                cpp_builder.get_cpp_compiler()
            except Exception:  # torch raises an error of its own, and what its search lets through
                return (
                    f"the engine {cls.name} needs a C++ compiler, and none is found: install g++ or clang++, or set CXX"
                )
        return None

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
        written = export_copy(model, example_inputs, forward, DecomposedSpelling(signed=False, rounds_bias=False))
        trace = traced(written.model, example_inputs, forward, dynamic, dynamic_shapes)
        rearrange_(trace.program)
        save_program(trace.program, path)
        return Written(path, modules=written.folded, dynamic=trace.dynamic, remarks=(*trace.remarks, COMPILED))

    def open(self, path: Path, *, threads: int = 1, results: Mapping[str, str] | None = None) -> Session:
        decomposed()
        return InductorSession(load_program(path), path)

    def mend(self, path: Path, samples: Sequence[Any], layers: Sequence[str]) -> str | None:
        decomposed()
        if torch.cpu._is_vnni_supported():
            return None
        program = load_program(path)
        if not limit_pairs_(program.state_dict):
            return None
        save_program(program, path)
        return LIMITED


class InductorSession(Session):
    """A program that is compiled when it is first called, and again for each size of a batch: oneDNN's convolutions
    give channels last, which inductor does not expect where sizes are symbols."""

    def __init__(self, program: Any, path: Path) -> None:
        self.program, self.path = program, path
        self._counted: Counter[str] = Counter()
        self.compiled = torch.compile(program.module(), dynamic=False)

    def run(self, example_inputs: Any) -> tuple[Tensor, ...]:
        args, kwargs = arguments_of(self.program, example_inputs)
        compiled: Any = self.compiled
        settings = {**SETTINGS, "post_grad_custom_post_pass": self._count}
        with quiet("torch"), _settings().patch(settings):
            try:
                return tensors_of(compiled(*args, **kwargs))
            except Exception as error:  # the compiler lets many kinds through
                raise ExportError(f"{self.path}: inductor cannot run it: {reason_of(error)}") from error

    def _count(self, graph: Any) -> None:
        """Take in the operators of a graph that inductor is about to make code of."""
        self._counted = Counter(_kind(node) for node in graph.nodes if node.op == "call_function")

    @property
    def operators(self) -> Mapping[str, int]:
        return dict(self._counted.most_common())


def _settings() -> Any:
    return importlib.import_module("torch._inductor.config")


def _kind(node: Any) -> str:
    """The name of an operator; of a kernel of oneDNN, which stands in as a function of its own, that function's."""
    called = getattr(node.target, "func", node.target)
    return str(getattr(called, "__name__", called))
