"""Weights of which two products with uint8 inputs fit in 16 bits, for processors without VNNI."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["LIMITED", "limited_pairs"]

#: what a user must know of a file whose pairs were limited
LIMITED = (
    "products of unsigned inputs and signed weights overflow on this processor, which has no VNNI: the scales of some "
    "channels are larger than those that were simulated, so that they do not; export on a processor with VNNI for what "
    "runs on such"
)
#: of the codes of two weights: 255 times that is the largest number of 16 bits
LARGEST_PAIR = 128


def limited_pairs(codes: Any, axis: int) -> tuple[Any, Any] | None:
    """Codes whose pairs of neighbours do not overflow, and how many times larger the scale of each output channel is
    for them, at most twice; None: they do not overflow as they are.

    Neighbours are so in the order of the codes, or with the inputs innermost, also where an odd number of these is
    filled up at each place of a kernel.

    Args:
        codes: int8, an array of two or more dimensions.
        axis: of the output channels.
    """
    rows = np.moveaxis(codes, axis, 0).astype(np.int64)
    inputs_last = np.moveaxis(rows, 1, -1)
    orders = rows, inputs_last, np.pad(inputs_last, [*[(0, 0)] * (rows.ndim - 1), (0, rows.shape[1] % 2)])
    ratio = np.maximum(np.max([_largest_pair(each) for each in orders], 0) / LARGEST_PAIR, 1.0)
    if (ratio <= 1).all():
        return None
    new = np.round(rows / ratio.reshape(-1, *[1] * (rows.ndim - 1))).astype(np.int8)
    return np.ascontiguousarray(np.moveaxis(new, 0, axis)), ratio


def _largest_pair(rows: Any) -> Any:
    """For each row the largest magnitude of the sum of two neighbours, from the first on."""
    flat = rows.reshape(len(rows), -1)
    flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
    return np.abs(flat.reshape(len(rows), -1, 2).sum(2)).max(1)
