"""Finding the key of a given rank over tensors that are split among processes, exactly, without gathering them.

A radix histogram of the keys' bits (11 + 10 + 10 for float32): each process counts its own parts, the counts are
summed, and the digit in which the wanted rank lies fixes the next bits of the key. Three small reductions find it for
any number of weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.framework.distributed.shards import counts_by_part, is_sharded, own_part, sum_of_parts
from paredown.framework.errors import TargetError
from paredown.modifiers.pruning.selection.chunks import INTEGER_OF_WIDTH, chunks
from paredown.modifiers.pruning.selection.threshold import Order, ordered_keys

__all__ = ["RadixSearch"]

#: bits of the longest digit
LONGEST = 11


@dataclass(frozen=True)
class RadixSearch:
    """The search for a key among DTensors, and plain tensors that every process holds whole; parts may be empty.

    Attributes:
        scores: the tensors.
        dtype: in which keys are taken (see `ordered_keys`).
        order: absolute values, or signed values.
        names: for error messages, one for each tensor.
    """

    scores: Sequence[Tensor]
    dtype: torch.dtype
    order: Order
    names: Sequence[str]

    def run(self, rank: int) -> tuple[int, int, int]:
        """The key of ``rank`` (from 1) among all elements, how many keys are smaller, and how many are equal.

        Raises:
            TargetError: a score is NaN in any process; the process that holds it names it.
        """
        self.refuse_nan()
        unsigned, below, equal, shift = 0, 0, 0, self._bits
        for width in digits(self._bits):
            shift -= width
            counts = self._histogram(unsigned, shift, width)
            ends = counts.cumsum(0)
            digit = int(torch.searchsorted(ends, rank - below))
            equal = int(counts[digit])
            below += int(ends[digit]) - equal
            unsigned = unsigned << width | digit
        return unsigned + self._lowest, below, equal

    def quotas(self, key: int, ties: int) -> tuple[int, ...]:
        """How many of the keys equal to ``key`` go in this process, tensor by tensor, of ``ties`` in all processes.

        They go by tensor, then by part: where rows are split, as in a process that holds everything.
        """
        found = [sum(int((keys == key).sum()) for keys in self._keys(part)) for part in map(own_part, self.scores)]
        quotas, left = [], ties
        for tensor, own in zip(self.scores, found, strict=True):
            before, total = counts_by_part(own, tensor)
            quotas.append(min(max(left - before, 0), own))
            left = max(left - total, 0)
        return tuple(quotas)

    def refuse_nan(self) -> None:
        """Look for NaN in all processes and do nothing else."""
        own = [name for name, tensor in zip(self.names, self.scores, strict=True) if _has_nan(own_part(tensor))]
        for like, _ in self._by_mesh():
            flag = torch.tensor([len(own)], device=own_part(like).device)
            if int(sum_of_parts(flag, like)):
                name = own[0] if own else "a weight in another process"
                raise TargetError(f"{name} contains NaN: nothing can be ranked by it; the model was left as it was")

    @property
    def _bits(self) -> int:
        return 8 * self.dtype.itemsize - (self.order == "magnitude")

    @property
    def _lowest(self) -> int:
        return 0 if self.order == "magnitude" else torch.iinfo(INTEGER_OF_WIDTH[self.dtype.itemsize]).min

    def _keys(self, part: Tensor) -> Iterator[Tensor]:
        for (piece,) in chunks(part) if part.numel() else ():
            yield ordered_keys(piece, self.dtype, self.order)

    def _histogram(self, prefix: int, shift: int, width: int) -> Tensor:
        """Of the keys that begin with ``prefix``, how many have each next digit, in all processes."""
        total: Tensor | None = None
        for like, group in self._by_mesh():
            counts = torch.zeros(1 << width, dtype=torch.int64, device=own_part(like).device)
            for part in map(own_part, group):
                for keys in self._keys(part):
                    unsigned = keys.to(torch.int64) ^ self._lowest
                    if shift + width < self._bits:
                        unsigned = unsigned[_digits_of(unsigned, shift + width, self._bits) == prefix]
                    counts += torch.bincount(_digits_of(unsigned, shift, shift + width), minlength=1 << width)
            summed = sum_of_parts(counts, like)
            total = summed if total is None else summed + total.to(summed.device)
        assert total is not None
        return total

    def _by_mesh(self) -> list[tuple[Tensor, list[Tensor]]]:
        """The tensors, by the processes among which they are split, each group with its first."""
        groups: dict[object, list[Tensor]] = {}
        for tensor in self.scores:
            kind = (tensor.device_mesh, tensor.placements) if is_sharded(tensor) else None  # type: ignore[attr-defined]
            groups.setdefault(kind, []).append(tensor)
        return [(group[0], group) for group in groups.values()]


def digits(bits: int) -> list[int]:
    """The widths of a key's digits, the most significant first.

    >>> digits(31), digits(15), sum(digits(63))
    ([11, 10, 10], [8, 7], 63)
    """
    count = -(-bits // LONGEST)
    return [bits // count + (place < bits % count) for place in range(count)]


def _digits_of(keys: Tensor, first: int, end: int) -> Tensor:
    """The bits from ``first`` to before ``end``, as numbers; the shift alone would repeat the highest bit."""
    return (keys >> first) & ((1 << (end - first)) - 1)


def _has_nan(part: Tensor) -> bool:
    return any(bool(piece.max().isnan()) for (piece,) in (chunks(part) if part.numel() else ()))
