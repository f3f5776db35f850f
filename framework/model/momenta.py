"""What optimizers remember of parameters, set to zero or forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from paredown.framework.distributed.shards import own_part

__all__ = ["clear_momenta_", "forget_"]


def clear_momenta_(optimizers: Sequence[Optimizer], marks: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    """Set to zero, in place, what optimizers remember of single weights (momentum, second moments).

    Args:
        optimizers: some of which train the weights.
        marks: weights with a bool of their shape, or of the part in this process, True where to forget; one at a time
            is held.
    """
    if not any(optimizer.state for optimizer in optimizers):
        return
    for weight, mark in marks:
        for optimizer in optimizers:
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    own_part(value).masked_fill_(mark, 0)


def forget_(optimizers: Sequence[Optimizer], parameters: Iterable[nn.Parameter]) -> None:
    """Take all of parameters' state from optimizers, step counts too: they begin anew at the next step."""
    for parameter in parameters:
        for optimizer in optimizers:
            optimizer.state.pop(parameter, None)
