"""Quantization in aten operators alone, and programs of `torch.export` as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paredown.framework.errors import ExportError
from paredown.integrations.export.calling import quiet, reason_of
from paredown.integrations.export.plain_operators import dequantized, dynamic_grid, float_grid, to_grid
from paredown.integrations.export.stored_weights import StoredWeight
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["AtenSpelling", "load_program", "save_program"]


class AtenSpelling:
    """See `paredown.integrations.export.spelling.Spelling`."""

    def zero_point(self, zero_point: Tensor, scheme: ActivationScheme) -> Tensor:
        return zero_point

    def fixed(self, x: Tensor, scale: Tensor, zero_point: Tensor, scheme: ActivationScheme) -> Tensor:
        if scheme.format != "int":
            return float_grid(x / scale, scheme.format == "fp8_e5m2") * scale
        return to_grid(x, scale, zero_point, scheme)

    def writes_numbers(self) -> bool:
        return False

    def stored(self, weight: StoredWeight) -> StoredWeight:
        return weight

    def dynamic(self, x: Tensor, scheme: ActivationScheme) -> Tensor:
        return dynamic_grid(x, scheme)

    def dequantized(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group: int, bits: int
    ) -> Tensor:
        return dequantized(codes, scale, zero_point, axis, group)

    def unpacks(self, weight: StoredWeight, linear: bool) -> bool:
        return False

    def dynamic_linear(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor | None:
        return None

    def lstm_parts(
        self, weights: Sequence[StoredWeight], biases: Sequence[Tensor | None], ways: int
    ) -> dict[str, Tensor] | None:
        return None

    def dynamic_lstm(
        self, x: Tensor, parts: dict[str, Tensor], states: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        raise ExportError("aten has no LSTM of integers")

    def writes_lstm(self) -> bool:
        return False

    def writes_integer_bias(self) -> bool:
        return False

    def rounds_bias(self) -> bool:
        return False


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
