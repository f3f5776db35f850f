"""The most probable classes of logits, and one number for all the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["compressed", "spread_out"]


def compressed(logits: Tensor, top: int, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """The largest logits, and one for each of the others with which these have the same share in sum.

    Args:
        logits: (..., classes), more classes than ``top``.
        top: how many are kept.
        temperature: at which the shares are right.

    Returns:
        Their values (..., top) in the type of the logits, their classes (..., top) as int32, and the logit of all
        others (..., 1): T (logsumexp of them / T - ln of their number).

    >>> values, classes, rest = compressed(torch.tensor([[2.0, 0.0, 0.0]]), 1)
    >>> values, classes, rest
    (tensor([[2.]]), tensor([[0]], dtype=torch.int32), tensor([[0.]]))
    """
    values, classes = logits.topk(top, dim=-1)
    others = logits.float().div(temperature).scatter(-1, classes, -math.inf).logsumexp(-1, keepdim=True)
    rest = (others - math.log(logits.shape[-1] - top)) * temperature
    return values, classes.to(torch.int32), rest.to(logits.dtype)


def spread_out(values: Tensor, classes: Tensor, rest: Tensor, count: int) -> Tensor:
    """Logits (..., count) again, of what `compressed` gave.

    >>> spread_out(torch.tensor([[2.0]]), torch.tensor([[0]]), torch.tensor([[0.5]]), 3)
    tensor([[2.0000, 0.5000, 0.5000]])
    """
    return rest.expand(*rest.shape[:-1], count).scatter(-1, classes.long(), values)
