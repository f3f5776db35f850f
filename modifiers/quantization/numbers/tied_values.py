"""Numbers that are tied: those of one code are one shared value, times a scale of their own where they have one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["tied", "tied_codes"]


def tied_codes(values: Tensor, codes: Tensor, scale: Tensor | None = None) -> Tensor:
    """What the values of each code share: the c with the least sum of (value - scale x c)^2, float64; 0 of none.

    Args:
        values: floating point.
        codes: in the values' shape: places among what is shared.
        scale: broadcasts against them. Default: 1.
    """
    places = codes.reshape(-1).long()
    if scale is None:
        return _sums(values.double(), places) / _sums(None, places).clamp_(min=1)
    wide = scale.double().expand(values.shape)
    squares = _sums(wide.square(), places)
    return torch.where(squares > 0, _sums(values.double() * wide, places) / squares, 0.0)


def tied(values: Tensor, codes: Tensor, scale: Tensor | None = None) -> Tensor:
    """The nearest numbers to some values of which those of one code are tied; those of code 0 are left as they are.

    It is the orthogonal projection onto the tied numbers: of values that are tied it changes nothing (but for the last
    bit of scaled ones). Of a gradient it is the steepest way down that keeps weights tied: each member gets the mean of
    its cluster's gradients. Deep Compression (arXiv:1510.00149, section 3) adds them up, which is the slope along the
    shared value; it is as many times as steep as the cluster has members, so that a learning rate for weights is far
    too large for it. The mean is that slope for the length of the way that the weights go.

    Args:
        values: floating point.
        codes: in the values' shape, 0 for what is not tied.
        scale: broadcasts against them. Default: 1.

    Returns:
        In the shape and type of the values.
    """
    new = tied_codes(values, codes, scale)[codes.long()]
    new = (new if scale is None else new * scale).to(values.dtype)
    return torch.where(codes != 0, new, values)


def _sums(values: Tensor | None, places: Tensor) -> Tensor:
    weights = torch.ones_like(places, dtype=torch.float64) if values is None else values.reshape(-1)
    return torch.bincount(places, weights=weights)
