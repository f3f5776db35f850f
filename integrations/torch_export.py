"""Export with `torch.export`: a ``.pt2`` of aten operators alone, with weights as integers; checked after loading."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import ExportError
from paredown.framework.measure.latency import measure_latency
from paredown.framework.model.forward import Forward
from paredown.framework.model.graph.fusion import tensors_of
from paredown.integrations.export.copy import dense_copy, export_copy
from paredown.integrations.export.plain_operators import dequantized, dynamic_grid, float_grid, to_grid
from paredown.integrations.export.stored_weights import StoredWeight
from paredown.integrations.export.verification import (
    Called,
    Exported,
    agree,
    arguments,
    bytes_at,
    in_float64,
    outputs_of,
    quiet,
    reason_of,
)
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["export"]


class _AtenSpelling:
    """See `paredown.integrations.export.copy.Spelling`."""

    def zero_point(self, zero_point: Tensor, scheme: ActivationScheme) -> Tensor:
        return zero_point

    def fixed(self, x: Tensor, scale: Tensor, zero_point: Tensor, scheme: ActivationScheme) -> Tensor:
        if scheme.format != "int":
            return float_grid(x / scale, scheme.format == "fp8_e5m2") * scale
        return to_grid(x, scale, zero_point, scheme)

    def dynamic(self, x: Tensor, scheme: ActivationScheme) -> Tensor:
        return dynamic_grid(x, scheme)

    def dequantized(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group: int, bits: int
    ) -> Tensor:
        return dequantized(codes, scale, zero_point, axis, group)

    def dynamic_linear(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor | None:
        return None

    def writes_integer_bias(self) -> bool:
        return False


def export(
    model: nn.Module,
    example_inputs: Any,
    path: str | Path,
    *,
    forward: Forward | None = None,
    tolerance: float | None = None,
    dynamic_shapes: Any = None,
    repetitions: int = 0,
) -> Exported:
    """Write a model with `torch.export.save`, load it again and compare. The model stays as it is.

    `torch.export.load` reads the file where paredown is not installed; ``.module()`` of what it gives is called like
    the model and returns a tuple of tensors. Weights are int8 (uint8, float8) buffers that the graph dequantizes, one
    byte each also for narrower ones; activations are clipped and rounded to their grid. It computes in floats: smaller,
    not faster. Batch-norms are folded into quantized convolutions.

    Args:
        example_inputs: a tensor, a tuple of positional arguments, or a dict of named ones.
        forward: called as ``forward(model, example_inputs)`` where the above does not fit; the exported module then
            takes ``inputs=example_inputs``.
        tolerance: the largest absolute difference of an output that is accepted. Default: see `verification.agree`.
        dynamic_shapes: as of `torch.export.export`.
        repetitions: how often latency is measured, of it and of the dense model exported likewise; 0: not.

    Raises:
        ExportError: something cannot be exported, or the outputs differ by more than the tolerance (the file stays, for
            a look into it).
    """
    path = Path(path)
    written = export_copy(model, example_inputs, forward, _AtenSpelling())
    _write(written, example_inputs, forward, path, dynamic_shapes)
    loaded = _load(path)
    want, got = outputs_of(model, example_inputs, forward), _outputs(loaded, example_inputs, forward)
    agreement = agree(want, got, tolerance, path, lambda: in_float64(model, example_inputs, forward))
    result = Exported(path, agreement, bytes_at(path))
    return result if repetitions < 2 else _timed(result, model, loaded, example_inputs, forward, repetitions)


def _timed(
    result: Exported, model: nn.Module, loaded: nn.Module, inputs: Any, forward: Forward | None, repetitions: int
) -> Exported:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.pt2"
        _write(dense_copy(model), inputs, forward, path, None)
        models = {"exported": loaded, "dense": _load(path)}
        times = measure_latency(
            models, inputs, lambda each, given: _outputs(each, given, forward), repetitions=repetitions
        )
        return dataclasses.replace(
            result, dense_bytes=bytes_at(path), latency=times["exported"], dense_latency=times["dense"]
        )


def _write(model: nn.Module, inputs: Any, forward: Forward | None, path: Path, dynamic_shapes: Any) -> None:
    args, kwargs = arguments(inputs, forward)
    with quiet("torch.export"):
        try:
            model = model if forward is None else Called(model, forward)
            program = torch.export.export(model, args, kwargs, strict=False, dynamic_shapes=dynamic_shapes)
            torch.export.save(program, str(path))
        except Exception as error:  # torch.export lets many kinds through
            raise ExportError(f"{path}: torch.export cannot export the model: {reason_of(error)}") from error


def _load(path: Path) -> nn.Module:
    with quiet("torch.export"):
        module: nn.Module = torch.export.load(str(path)).module()
    module.eval = lambda: module  # type: ignore[method-assign]  # an exported module refuses it
    return module


def _outputs(module: nn.Module, inputs: Any, forward: Forward | None) -> Sequence[Tensor]:
    args, kwargs = arguments(inputs, forward)
    with torch.no_grad():
        return tensors_of(module(*args, **kwargs))
