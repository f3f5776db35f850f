"""`Spelling`: how an exporter writes quantization in operators that its engine knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from paredown.framework.errors import ExportError
from paredown.integrations.export.stored_weights import StoredWeight
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["Spelling"]


class Spelling(Protocol):
    """How an exporter writes quantization in operators of a traced forward.

    Spellings inherit from it: what they do not write, they write in floating point and in tensors.
    """

    def zero_point(self, zero_point: Tensor, scheme: ActivationScheme) -> Tensor:
        """A zero point (int32) in the type and with the offset of the codes that the exporter uses."""

    def fixed(self, x: Tensor, scale: Any, zero_point: Any, scheme: ActivationScheme) -> Tensor:
        """Quantize and dequantize with a grid that is known: tensors, or the numbers of `writes_numbers`; the zero
        point is that of `zero_point`."""

    def writes_numbers(self) -> bool:
        """Whether the grid of `fixed` is Python's numbers, which a tracer writes into the graph."""
        return False

    def stored(self, weight: StoredWeight) -> StoredWeight:
        """A weight with the tensors that are to be made buffers of its layer."""
        return weight

    def dynamic(self, x: Tensor, scheme: ActivationScheme) -> Tensor:
        """Quantize and dequantize with the grid of the values themselves."""

    def dequantized(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, group: int, bits: int
    ) -> Tensor:
        """Values of codes, as ONNX's DequantizeLinear has it: a scale for the tensor, an
        axis, or groups of it."""

    def unpacks(self, weight: StoredWeight, linear: bool) -> bool:
        """Whether a weight that meets floating-point inputs is unpacked once, when the file is opened.

        Args:
            linear: it is a linear layer's.
        """

    def dynamic_linear(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor | None:
        """A linear layer of dynamically quantized inputs in one piece; None: write it in two."""
        return None

    def lstm_parts(
        self, weights: Sequence[StoredWeight], biases: Sequence[Tensor | None], ways: int
    ) -> dict[str, Tensor] | None:
        """What `dynamic_lstm` takes of one layer of an LSTM, which is to be made its buffers.

        Args:
            weights: for each direction that of the input and the recurrent one, (4 units, features).
            biases: for each direction two of (4 units,).
            ways: directions.

        Returns:
            Them by name; None: it is written in floating point.
        """
        return None

    def dynamic_lstm(
        self, x: Tensor, parts: dict[str, Tensor], states: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer of an LSTM whose inputs and hidden states are quantized at run time.

        Args:
            x: (time, batch, features).
            states: hidden and cell, (directions, batch, units).

        Returns:
            Results (time, batch, directions x units) and the last states.
        """
        raise ExportError("there is no LSTM of integers in these operators")

    def writes_lstm(self) -> bool:
        """Whether there is an LSTM of integers: `lstm_parts`, `dynamic_lstm`."""
        return False

    def writes_integer_bias(self) -> bool:
        """Whether a bias is stored as int32 at the scale of the products."""
        return False

    def rounds_bias(self) -> bool:
        """Whether the engine adds biases as int32 at that scale, so that a channel's scale must leave room for its
        bias."""
        return self.writes_integer_bias()
