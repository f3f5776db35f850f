"""Finding the key of a given rank over many tensors, exactly, in about one pass and without a second copy of them.

A floating-point number's bits, read as an integer without the sign, order like its magnitude. On these *keys* the
wanted rank is found by sorting a strided sample, bracketing the rank, and counting and collecting what lies in the
bracket in one pass; only what was collected is partitioned. When the count shows that the bracket missed, it is
widened, and after that halved until the rank is enclosed, so the result is exact for any data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from paredown.framework.errors import TargetError
from paredown.modifiers.pruning.selection.chunks import INTEGER_OF_WIDTH, bits_of, chunks, is_dense

__all__ = ["Order", "Search", "ordered_keys"]

Order = Literal["magnitude", "value"]

_SAMPLE = 200_000
_WIDTHS = (
    1,
    8,
)  # half widths of the bracket that are tried, in units of 2 / sqrt(sample size), four deviations or more
_COLLECTED = 0.02  # share of all elements that may be collected


def ordered_keys(scores: Tensor, dtype: torch.dtype, order: Order = "magnitude") -> Tensor:
    """Integers that compare like the scores (or their absolute values), exactly, denormals and infinities included.

    Args:
        scores: any floating-point tensor without NaN; it is widened to ``dtype`` first.
        dtype: the type whose bits are taken; the same for all tensors that are compared.
        order: absolute values, or signed values (where -0.0 equals 0.0).
    """
    scores = scores.detach().to(dtype)
    if order == "magnitude":
        bits = bits_of(scores)
        return bits.bitwise_and(torch.iinfo(bits.dtype).max)
    bits = bits_of(scores + 0.0)
    info = torch.iinfo(bits.dtype)
    return bits.bitwise_xor((bits >> (info.bits - 1)).bitwise_and_(info.max))


@dataclass(frozen=True)
class Search:
    """The search for the key of rank ``count`` (from 1) among all ``scores``."""

    scores: Sequence[Tensor]
    count: int
    dtype: torch.dtype
    order: Order
    names: Sequence[str]

    @property
    def total(self) -> int:
        return sum(tensor.numel() for tensor in self.scores)

    def run(self) -> tuple[int, int, int]:
        """The key, how many keys are smaller, and how many are equal.

        Raises:
            TargetError: a score is NaN.
        """
        sample = self._sample()
        for width in _WIDTHS:
            left, right = self._bracket(sample, width)
            at_most_left, between = self._collect(left, right)
            if self.count <= at_most_left:
                below = self._at_most(left - 1)
                if below < self.count:
                    return left, below, at_most_left - below
            elif between is None:
                break
            elif self.count <= at_most_left + len(between):
                return _partition(between, self.count - at_most_left, at_most_left)
            else:
                below, at_most = at_most_left + len(between), self._at_most(right)
                if self.count <= at_most:
                    return right, below, at_most - below
        return self._halve()

    def refuse_nan(self) -> None:
        """Look for NaN and do nothing else."""
        for _ in self._keys(check=True):
            pass

    def _sample(self) -> Tensor:
        """Sorted keys of every n-th element of all tensors together."""
        stride = max(1, self.total // _SAMPLE) | 1  # odd: rows are often a power of two long
        picked, position = [], 0
        for tensor in self.scores:
            strided = _in_memory_order(tensor)[-position % stride :: stride]
            picked.append(ordered_keys(strided, self.dtype, self.order).to(self.scores[0].device))
            position += tensor.numel()
        return _sorted(torch.cat(picked))

    def _bracket(self, sample: Tensor, width: int) -> tuple[int, int]:
        half, centre = 2 * width * math.isqrt(len(sample)), self.count * len(sample) // self.total
        return tuple(int(sample[min(max(rank, 0), len(sample) - 1)]) for rank in (centre - half, centre + half))  # type: ignore[return-value]

    def _collect(self, left: int, right: int) -> tuple[int, Tensor | None]:
        """How many keys are at most ``left``, and those strictly between; None where these are too many to hold."""
        room = max(_SAMPLE, int(_COLLECTED * self.total))
        collected = torch.empty(room, dtype=INTEGER_OF_WIDTH[self.dtype.itemsize], device=self.scores[0].device)
        at_most = filled = 0
        for keys in self._keys(check=True):
            below, between = _split(keys, left, right)
            at_most += below
            if filled + len(between) <= room:
                collected[filled : filled + len(between)] = between
            filled += len(between)
        return at_most, collected[:filled] if filled <= room else None

    def _at_most(self, key: int) -> int:
        return sum(int((keys <= key).count_nonzero()) for keys in self._keys())

    def _halve(self) -> tuple[int, int, int]:
        """Bisect the keys: as many passes as a key has bits, and no memory."""
        info = torch.iinfo(INTEGER_OF_WIDTH[self.dtype.itemsize])
        low, high = info.min, info.max
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._at_most(middle) >= self.count else (middle + 1, high)
        below = self._at_most(high - 1)
        return high, below, self._at_most(high) - below

    def _keys(self, check: bool = False) -> Iterator[Tensor]:
        """The keys piece by piece, in memory that the next piece overwrites (new memory each time would fragment)."""
        space: Tensor | None = None
        for name, tensor in zip(self.names, self.scores, strict=True):
            for (part,) in chunks(tensor):
                if not part.numel():
                    continue
                if check and part.max().isnan():
                    raise TargetError(f"{name} contains NaN: nothing can be ranked by it; the model was left as it was")
                if self.order == "value" or part.dtype != self.dtype:
                    yield ordered_keys(part, self.dtype, self.order)
                    continue
                bits = bits_of(part)
                if space is None or space.device != bits.device or space.numel() < bits.numel():
                    space = torch.empty(bits.numel(), dtype=bits.dtype, device=bits.device)
                keys = space[: bits.numel()].view(bits.shape)
                yield torch.bitwise_and(bits, torch.iinfo(bits.dtype).max, out=keys)


def _in_memory_order(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.as_strided((tensor.numel(),), (1,)) if is_dense(tensor) else tensor.flatten()


def _split(keys: Tensor, left: int, right: int) -> tuple[int, Tensor]:
    if keys.device.type != "cpu":
        return int((keys <= left).count_nonzero()), keys[(keys > left) & (keys < right)]
    array = keys.numpy()  # NumPy compares and gathers several times faster here
    return int(np.count_nonzero(array <= left)), torch.from_numpy(array[(array > left) & (array < right)])


def _sorted(keys: Tensor) -> Tensor:
    if keys.device.type != "cpu":
        return keys.sort().values
    keys.numpy().sort()
    return keys


def _partition(keys: Tensor, rank: int, below: int) -> tuple[int, int, int]:
    """The key of ``rank`` (from 1) among ``keys``, with ``below`` smaller ones outside of them."""
    key = (
        int(keys.kthvalue(rank).values)
        if keys.device.type != "cpu"
        else int(np.partition(keys.numpy(), rank - 1)[rank - 1])
    )
    return key, below + int((keys < key).count_nonzero()), int((keys == key).count_nonzero())
