"""An LSTM as engines compute it in integers: the hidden state is rounded too, in every time step, at its own range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.model.operators import ReplacedFunction
from paredown.modifiers.quantization.layers.quantizers import Quantizer
from paredown.modifiers.quantization.numbers.fake_quantize import fake_quantize
from paredown.modifiers.quantization.numbers.scales import affine_parameters
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme

__all__ = ["HiddenStates", "directions_of", "layer_weights", "run_layers"]

#: computes one direction of one layer: (input (time, batch, features), its number among all directions, hidden and
#: cell state (batch, units)) -> (results (time, batch, units), last hidden state, last cell state)
Direction = Callable[[Tensor, int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class HiddenStates(Quantizer):
    """Around an LSTM whose inputs are quantized as they come: rounds the inputs of its further layers, and the hidden
    state before each product."""

    def __init__(self, scheme: ActivationScheme) -> None:
        self.scheme = scheme

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        with ReplacedFunction("lstm", self._lstm):
            return call(module, *args, **kwargs)

    def _lstm(self, x: Tensor, states: Any, weights: Any, *settings: Any) -> Any:
        """In the place of ``torch.lstm``; packed sequences are computed without rounding."""
        if isinstance(states, Tensor):  # the sizes of its batches
            return NotImplemented
        _, layers, dropout, training, bidirectional, batch_first = settings
        own = layer_weights(weights, settings[0], states[0].shape[-1] != states[1].shape[-1])

        def direction(x: Tensor, number: int, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self._direction(x, own[number], hidden, cell, bool(bidirectional and number % 2))

        between = dropout if training else 0.0
        return run_layers(x, states, layers, bidirectional, batch_first, direction, between)

    def _direction(
        self, x: Tensor, weights: Sequence[Tensor | None], hidden: Tensor, cell: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        into, recurrent, bias, projection = weights
        assert into is not None
        assert recurrent is not None
        gates = nn.functional.linear(self._rounded(x), into, bias)
        results: list[Tensor] = []
        for step in gates.flip(0) if reverse else gates:
            sums = step + nn.functional.linear(self._rounded(hidden), recurrent)
            enter, forget, new, leave = sums.chunk(4, -1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            hidden = hidden if projection is None else nn.functional.linear(hidden, projection)
            results.append(hidden)
        return torch.stack(results[::-1] if reverse else results), hidden, cell

    def _rounded(self, x: Tensor) -> Tensor:
        """On the grid of its own range; what is rounded already stays as it is, but for the last bit."""
        return fake_quantize(x, *affine_parameters(*x.detach().aminmax(), self.scheme), self.scheme)


def layer_weights(weights: Sequence[Tensor], biased: bool, projected: bool) -> list[tuple[Tensor | None, ...]]:
    """By direction the input weight, the recurrent weight, the sum of the biases, and the projection, of the flat list
    that ``nn.LSTM`` keeps."""
    count = 2 + 2 * biased + projected
    found: list[tuple[Tensor | None, ...]] = []
    for start in range(0, len(weights), count):
        own = list(weights[start : start + count])
        bias = own[2] + own[3] if biased else None
        found.append((own[0], own[1], bias, own[-1] if projected else None))
    return found


def directions_of(bidirectional: bool) -> int:
    """2 or 1."""
    return 2 if bidirectional else 1


def run_layers(
    x: Tensor,
    states: Sequence[Tensor],
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    direction: Direction,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``torch.lstm`` returns: all results of the last layer, and the last states of all directions."""
    x = x.transpose(0, 1) if batch_first else x
    hidden, cell = [], []
    ways = directions_of(bidirectional)
    for layer in range(layers):
        if layer and dropout:
            x = nn.functional.dropout(x, dropout)
        numbers = range(layer * ways, (layer + 1) * ways)
        outputs = [direction(x, number, states[0][number], states[1][number]) for number in numbers]
        x = torch.cat([output[0] for output in outputs], -1)
        hidden += [output[1] for output in outputs]
        cell += [output[2] for output in outputs]
    return (x.transpose(0, 1) if batch_first else x), torch.stack(hidden), torch.stack(cell)
