"""Computing a loss over many rows piece by piece, in the memory of a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from paredown.modifiers.distillation.losses.logit_rows import wide

__all__ = ["RowsLoss", "in_row_chunks"]

RowsLoss = Callable[..., Tensor]


def in_row_chunks(
    rows_loss: RowsLoss,
    student: Tensor,
    teacher: Tensor,
    row_weights: Tensor | None,
    rows_at_once: int,
    *more: Tensor,
) -> Tensor:
    """sum(row_weights x rows_loss(student, teacher, *more)), a few rows at a time.

    The student's gradient is computed in the forward pass, chunk by chunk, so that all temporaries are those of one
    chunk; what is kept is that gradient, in the student's type.

    Args:
        rows_loss: takes the same rows of all tensors, student and teacher in float32 at least, and gives (rows,). Each
            row's loss must depend on that row alone.
        student: (rows, classes); float16 and bfloat16 are computed in float32.
        teacher: (rows, classes of its own); gets no gradient.
        row_weights: (rows,), bool or floating point, not divided by their sum; rows that weigh 0 are seen as zeros and
            get no gradient. None: 1 / rows each.
        rows_at_once: rows of a chunk, 1 or more.
        more: what else belongs to the rows, (rows, ...), such as targets; gets no gradient.

    Returns:
        0-d, in float32 at least.

    Raises:
        ValueError: the numbers of rows differ, or ``rows_at_once`` is below 1.

    >>> squares = lambda student, teacher: (student - teacher).square().sum(-1)
    >>> in_row_chunks(squares, torch.ones(3, 2), torch.zeros(3, 2), None, rows_at_once=2)
    tensor(2.)
    """
    along = (teacher, *more) if row_weights is None else (teacher, row_weights, *more)
    if rows_at_once < 1 or any(len(tensor) != len(student) for tensor in along):
        raise ValueError(f"rows {[len(student), *map(len, along)]}, {rows_at_once} at once: all must agree, 1 at least")
    trained = torch.is_grad_enabled() and student.requires_grad
    weights, size = _relative(row_weights, student)
    along = tuple(tensor.detach() for tensor in (teacher, weights, size, *more))
    loss: Tensor = _InChunks.apply(rows_loss, rows_at_once, trained, student, *along)  # type: ignore[no-untyped-call]
    return loss


class _InChunks(torch.autograd.Function):
    """The gradient is kept for weights of at most 1, so that 1 / rows does not underflow in float16."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_loss: RowsLoss,
        rows_at_once: int,
        trained: bool,
        student: Tensor,
        teacher: Tensor,
        weights: Tensor,
        size: Tensor,
        *more: Tensor,
    ) -> Tensor:
        total = size.new_zeros(())
        gradient = torch.empty_like(student) if trained else student.new_empty(0)
        for rows in _chunks(len(student), rows_at_once):
            along = [tensor[rows] for tensor in more]
            part, slope = _one_chunk(rows_loss, student[rows], teacher[rows], weights[rows], along, trained)
            total = total + part
            if trained:
                gradient[rows] = slope
        ctx.save_for_backward(gradient, size)
        ctx.rows_at_once = rows_at_once
        return total * size

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, size = ctx.saved_tensors
        scale = upstream * size
        scaled = torch.empty_like(gradient)
        for rows in _chunks(len(gradient), ctx.rows_at_once):
            scaled[rows] = wide(gradient[rows]) * scale
        return None, None, None, scaled, *(None for _ in ctx.needs_input_grad[4:])


def _relative(row_weights: Tensor | None, student: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of at most 1, and what they are to be multiplied by."""
    like = wide(student[:0])
    if row_weights is None:
        return like.new_ones(len(student)), like.new_full((), 1 / max(len(student), 1))
    weights = row_weights.to(like.dtype)
    size = weights.abs().amax()
    return weights.div(size.where(size != 0, 1)), size


def _chunks(rows: int, at_once: int) -> Iterator[slice]:
    return (slice(start, start + at_once) for start in range(0, rows, at_once))


def _one_chunk(
    rows_loss: RowsLoss, student: Tensor, teacher: Tensor, weights: Tensor, more: list[Tensor], trained: bool
) -> tuple[Tensor, Tensor]:
    counted = (weights != 0).unsqueeze(-1)
    student, teacher = (wide(logits).where(counted, 0) for logits in (student, teacher))

    def loss(piece: Tensor) -> Tensor:
        return (rows_loss(piece, teacher, *more) * weights).sum()

    if not trained:
        return loss(student), student
    slope, part = torch.func.grad_and_value(loss)(student)
    return part, slope
