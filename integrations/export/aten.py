"""Quantization in aten operators alone, and programs of `torch.export` as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paredown.framework.errors import ExportError
from paredown.integrations.export.calling import arguments, quiet, reason_of, widened
from paredown.integrations.export.plain_operators import dequantized, dynamic_grid, float_grid, to_grid
from paredown.integrations.export.spelling import Spelling
from paredown.integrations.export.stored_weights import StoredWeight
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["AtenSpelling", "arguments_of", "load_program", "save_program"]


class AtenSpelling(Spelling):
    """See `paredown.integrations.export.spelling.Spelling`."""

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

    def unpacks(self, weight: StoredWeight, linear: bool) -> bool:
        return False


def arguments_of(program: Any, example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments with which a program is called; of one of `Called` the inputs as they are."""
    named, given = program.call_spec.in_spec.child(1).context, widened(example_inputs)
    return ((), {"inputs": given}) if list(named or ()) == ["inputs"] else arguments(given, None)


def save_program(program: Any, path: Path) -> None:
    """Save a program without its example inputs: they may be a view of a whole training set.

    Raises:
        ExportError: it cannot be saved.
    """
    program.example_inputs = None
    with quiet("torch"):
        try:
            torch.export.save(program, path)
        except Exception as error:  # torch.export lets the error of any operator through
            raise ExportError(f"{path}: torch.export cannot save the model: {reason_of(error)}") from error


def load_program(path: Path) -> Any:
    """A saved program.

    Raises:
        ExportError: it cannot be loaded.
    """
    with quiet("torch"):
        try:
            return torch.export.load(path)
        except Exception as error:  # torch.export lets the error of any operator through
            raise ExportError(f"{path}: torch.export cannot load it: {reason_of(error)}") from error
