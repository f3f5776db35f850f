"""Walking large tensors in pieces that fit the cache, so that temporaries stay small and memory is read once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["INTEGER_OF_WIDTH", "bits_of", "chunks", "is_dense", "logical_chunks", "shared_out", "smallest_in_rows"]

#: the integer type with the bytes of an element: what masks and ordered keys are made of
INTEGER_OF_WIDTH = {2: torch.int16, 4: torch.int32, 8: torch.int64}

_CPU_ELEMENTS = 1 << 16  # 256 KiB of float32: measured best on CPUs with 1 MiB of second-level cache
_ACCELERATOR_ELEMENTS = 1 << 22


def bits_of(tensor: Tensor) -> Tensor:
    """The same memory read as integers of the same width; any strides.

    Raises:
        TypeError: an element is not 2, 4 or 8 bytes of floating point.
    """
    if not tensor.dtype.is_floating_point or tensor.element_size() not in INTEGER_OF_WIDTH:
        raise TypeError(
            f"{tensor.dtype} has no bit pattern that orders its values; use float16, bfloat16, float32 or 64"
        )
    return tensor.detach().view(INTEGER_OF_WIDTH[tensor.element_size()])


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without gaps or overlap, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of equal places of tensors of one shape, piece by piece, in the fastest order."""
    first = tensors[0]
    if all(is_dense(tensor) and tensor.stride() == first.stride() for tensor in tensors):
        flat = [tensor.detach().as_strided((tensor.numel(),), (1,)) for tensor in tensors]
        pieces = [_split(tensor, _elements(first)) for tensor in flat]
        yield from zip(*pieces, strict=True)
    else:
        yield from logical_chunks(*tensors)


def logical_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same in the order of the indices; pieces keep the tensors' dimensions where these are not contiguous."""
    if all(tensor.is_contiguous() for tensor in tensors):
        flat = [tensor.detach().view(-1) for tensor in tensors]
        yield from zip(*(_split(tensor, _elements(tensors[0])) for tensor in flat), strict=True)
    else:
        rows = max(1, _elements(tensors[0]) * len(tensors[0]) // max(1, tensors[0].numel()))
        yield from zip(*(_split(tensor.detach(), rows) for tensor in tensors), strict=True)


def _elements(tensor: Tensor) -> int:
    if tensor.device.type == "cpu":
        return _CPU_ELEMENTS * torch.get_num_threads()
    return _ACCELERATOR_ELEMENTS


def _split(tensor: Tensor, size: int) -> tuple[Tensor, ...]:
    pieces: tuple[Tensor, ...] = torch.split(tensor, size)
    return pieces


def shared_out(total: int, sizes: Tensor, least: Tensor) -> Tensor:
    """Counts that add up to ``total`` exactly, each in proportion to its part's size but not below ``least``.

    Of parts in order, the first k have floor(share x their size + 1/2) in sum, where share is what the total leaves to
    the parts that are not at their least; so equal parts differ by one at most.

    Args:
        total: at least the sum of ``least``, at most that of ``sizes``.
        sizes, least: (parts,), whole numbers; least <= sizes.

    >>> shared_out(5, torch.tensor([4, 4, 4]), torch.tensor([3, 0, 0]))
    tensor([3, 1, 1])
    """
    fixed = torch.zeros_like(least, dtype=torch.bool)
    while True:
        open_sizes = sizes.masked_fill(fixed, 0)
        left, room = total - int(least[fixed].sum()), max(int(open_sizes.sum()), 1)
        ends = (2 * left * open_sizes.cumsum(0) + room) // (2 * room)
        counts = torch.where(fixed, least, ends.diff(prepend=ends.new_zeros(1)))
        short = counts < least
        if not bool(short.any()):
            return counts
        fixed |= short


def smallest_in_rows(scores: Tensor, counts: Tensor) -> Tensor:
    """Mark the ``counts`` smallest scores of each row; ties by index, lowest first.

    Args:
        scores: (rows, n).
        counts: (rows,), 0 to n.

    Returns:
        bool (rows, n).
    """
    marks = torch.zeros_like(scores, dtype=torch.bool)
    places = torch.arange(scores.shape[1], device=scores.device)
    rows = max(1, (1 << 22) // max(scores.shape[1], 1))  # the order takes 8 bytes a weight
    for part, count, mark in zip(*(torch.split(each, rows) for each in (scores, counts, marks)), strict=True):
        mark.scatter_(1, part.argsort(dim=1, stable=True), places < count[:, None])
    return marks
