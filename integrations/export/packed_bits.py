"""Small integers in few bits, and positions as the gaps between them: stateless functions on arrays.

Five bits are stored as four and one: a byte holds a whole number of parts of 1, 2, 4 or 8 bits, so that a runtime gets
at them with two shifts, or a division and a remainder.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["entries_of", "fillers", "parts_of", "to_parts"]


def parts_of(width: int) -> tuple[int, ...]:
    """The widths of the parts in which a number of 1 to 8 bits is stored, the lowest bits first: (4, 1) for 5."""
    return tuple(bits for bits in (8, 4, 2, 1) if width & bits)


def to_parts(numbers: Any, width: int) -> list[Any]:
    """Numbers below 2^width as bytes.

    Args:
        numbers: (n,), integers.

    Returns:
        For each of `parts_of` an array of uint8, (bytes, 1): in a byte the first number has the lowest bits; what is
        left of the last byte is 0.
    """
    found, low = [], 0
    for bits in parts_of(width):
        part = (np.asarray(numbers, np.int64) >> low) & ((1 << bits) - 1)
        rows = np.pad(part, (0, -len(part) % (8 // bits))).reshape(-1, 8 // bits)
        found.append((rows << np.arange(0, 8, bits)).sum(1, keepdims=True).astype(np.uint8))
        low += bits
    return found


def fillers(gaps: Any, width: int) -> int:
    """How many entries it takes beside the values where gaps have so many bits."""
    largest = (1 << width) - 1
    return int((np.maximum(gaps - 1, 0) // largest).sum())


def entries_of(gaps: Any, width: int) -> tuple[Any, Any]:
    """Gaps of which each fits in so many bits: before a large one there are entries without a value.

    Args:
        gaps: (n,), from each position to the next one; the first one from 0.

    Returns:
        Gaps below 2^width and, for each, which of the n values is there; -1 for none.
    """
    largest = (1 << width) - 1
    before = np.maximum(gaps - 1, 0) // largest
    ends = np.cumsum(before + 1) - 1
    steps, places = np.full(len(gaps) + int(before.sum()), largest), np.full(len(gaps) + int(before.sum()), -1)
    steps[ends], places[ends] = gaps - before * largest, np.arange(len(gaps))
    return steps, places
