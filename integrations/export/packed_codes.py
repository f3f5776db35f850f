"""The ways in which an array can be stored in fewer bytes, and what each takes: stateless functions on arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from paredown.integrations.export.packed_bits import fillers, parts_of

__all__ = ["Code", "Entries", "codes_of", "narrowest", "patterns"]

Positions = Literal["all", "mask", "gaps", "none"]
#: values that an index of eight bits can name
MOST_VALUES = 256
#: of an array, where it is larger: enough to see that it has more than that
SAMPLE = 1 << 16
GAP_WIDTHS = range(2, 9)
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Code:
    """One way to store an array.

    Attributes:
        positions: "none": all elements are equal; "all": each has a value; "mask", "gaps": those that differ from the
            most frequent one do.
        turned: the elements are counted with the first dimension innermost.
        width: of gaps, in bits.
        index: of a value, in bits, as an index into the different ones; 0: the values are stored.
        payload: bytes of the arrays that are stored, without what surrounds them in the file.
    """

    positions: Positions
    turned: bool
    width: int
    index: int
    payload: float


class Entries:
    """The elements of an array that differ from the most frequent one, in the order of one of its layouts."""

    def __init__(self, array: Any, turned: bool) -> None:
        rows = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
        self.flat = np.ascontiguousarray(rows.T if turned else rows).reshape(-1)
        self.background = self.flat[_most_frequent(patterns(self.flat))]

    @cached_property
    def positions(self) -> Any:
        """(n,), where they are."""
        return np.flatnonzero(patterns(self.flat) != patterns(self.background.reshape(1)))

    @cached_property
    def gaps(self) -> Any:
        """(n,), from each to the next one; the first one from 0."""
        return np.diff(self.positions, prepend=0)

    @cached_property
    def values(self) -> Any:
        """(n,)."""
        return self.flat[self.positions]

    @cached_property
    def different(self) -> Any:
        """The different values among them; None: more than 256."""
        return _different(self.values)


def patterns(values: Any) -> Any:
    """The bits of numbers, by which 0.0 is not -0.0 and a NaN is itself."""
    return values.view(UNSIGNED[values.dtype.itemsize])


def narrowest(values: Any) -> Any:
    """The narrowest type of integers that holds the values; their own where that is it, or for floating point."""
    if values.dtype.kind != "i" or not values.size:
        return values.dtype
    fits = (kind for kind in (np.uint8, np.int8, np.int16) if _holds(kind, values))
    kinds = [np.dtype(kind) for kind in fits if np.dtype(kind).itemsize < values.dtype.itemsize]
    return min(kinds, key=lambda kind: kind.itemsize, default=values.dtype)


def codes_of(entries: Entries, turned: bool, known: Collection[Positions]) -> Iterator[Code]:
    """The codes for an array in one of its layouts.

    Args:
        known: the kinds of positions for which an engine has operators.
    """
    size, count, different = entries.flat.size, len(entries.positions), entries.different
    if not count:
        yield Code("none", turned, 0, 0, entries.flat.itemsize)
        return
    whole = None if different is None else len(different) + (count < size)
    yield from _valued("all", turned, 0, size, entries.flat, whole, 0)
    if "mask" in known:  # what is no entry has a value too, the first one
        values = None if different is None else len(different) + 1
        yield from _valued("mask", turned, 0, count + 1, entries.values, values, size)
    for width in GAP_WIDTHS if "gaps" in known else ():
        more = fillers(entries.gaps, width)
        values = None if different is None else len(different) + bool(more)
        yield from _valued("gaps", turned, width, count + more, entries.values, values, width * (count + more))


def _valued(
    positions: Positions, turned: bool, width: int, count: int, values: Any, different: int | None, bits: int
) -> Iterator[Code]:
    """A code with the values as they are, and one with indices.

    Args:
        count: how many values are stored.
        different: how many there are; None: more than 256.
        bits: that the positions take.
    """
    yield Code(positions, turned, width, 0, count * narrowest(values).itemsize + bits / 8)
    if different is not None and different <= MOST_VALUES:
        index = max((different - 1).bit_length(), 1)
        table = different * narrowest(values).itemsize
        rounding = len(parts_of(index)) / 2
        yield Code(positions, turned, width, index, count * index / 8 + table + rounding + bits / 8)


def _most_frequent(bits: Any) -> int:
    """The place of one of the most frequent elements, as far as a sample shows."""
    sample = bits[:: max(len(bits) // SAMPLE, 1)]
    _, places, counts = np.unique(sample, return_index=True, return_counts=True)
    return int(places[counts.argmax()]) * max(len(bits) // SAMPLE, 1)


def _different(values: Any) -> Any:
    bits = patterns(values)
    if len(np.unique(bits[:: max(len(bits) // SAMPLE, 1)])) > MOST_VALUES:
        return None
    found = np.unique(bits)
    return found.view(values.dtype) if len(found) <= MOST_VALUES else None


def _holds(kind: Any, values: Any) -> bool:
    bounds = np.iinfo(kind)
    return bool(bounds.min <= values.min() and values.max() <= bounds.max)
