"""What optimizers remember of parameters, set to zero or forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["clear_momenta_", "forget_"]


def clear_momenta_(optimizers: Sequence[Optimizer], marks: Mapping[nn.Parameter, Tensor]) -> None:
    """Set to zero, in place, what optimizers remember of single weights (momentum, second moments).

    Args:
        optimizers: some of which train the weights.
        marks: bool of each weight's shape, True where to forget.
    """
    for optimizer in optimizers:
        for weight, mark in marks.items():
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(mark, 0)


def forget_(optimizers: Sequence[Optimizer], parameters: Iterable[nn.Parameter]) -> None:
    """Take all of parameters' state from optimizers, step counts too: they begin anew at the next step."""
    for parameter in parameters:
        for optimizer in optimizers:
            optimizer.state.pop(parameter, None)
