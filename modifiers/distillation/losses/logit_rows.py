"""The losses between logits, row by row, and their mean over the rows that count."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "jensen_shannon_rows",
    "kl_divergence_rows",
    "mean_over_rows",
    "reverse_kl_rows",
    "squared_logit_rows",
    "top_k_rows",
    "wide",
    "wide_rows",
]


def kl_divergence_rows(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """`kl_divergence_loss` of each row: (rows, classes) in float32 or float64 to (rows,)."""
    return _kl(_log_softmax(student, temperature), _log_softmax(teacher, temperature)) * temperature**2


def reverse_kl_rows(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """`reverse_kl_loss` of each row: (rows, classes) in float32 or float64 to (rows,)."""
    return kl_divergence_rows(teacher, student, temperature)


def jensen_shannon_rows(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """`jensen_shannon_loss` of each row: (rows, classes) in float32 or float64 to (rows,)."""
    learned, taught = _log_softmax(student, temperature), _log_softmax(teacher, temperature)
    between = torch.logaddexp(learned, taught) - math.log(2)
    return (_kl(between, taught) + _kl(between, learned)) / 2 * temperature**2


def squared_logit_rows(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """`squared_logit_loss` of each row: (rows, classes) in float32 or float64 to (rows,)."""
    return (student - teacher).square().mean(-1)


def top_k_rows(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0, k: int = 10) -> Tensor:
    """`top_k_loss` of each row: (rows, classes) in float32 or float64 to (rows,)."""
    if k >= teacher.shape[-1]:
        return kl_divergence_rows(student, teacher, temperature)
    kept = teacher.topk(k, dim=-1, sorted=False).indices
    learned, taught = (_coarse(_log_softmax(logits, temperature), kept) for logits in (student, teacher))
    return _kl(learned, taught) * temperature**2


def mean_over_rows(
    rows_loss: Callable[[Tensor, Tensor], Tensor],
    student_logits: Tensor,
    teacher_logits: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """sum(weights x rows_loss) / sum(weights) over the rows of logits, 0 where all weights are 0.

    ``rows_loss`` gets logits as (rows, classes), in float32 at least, and gives (rows,); of rows that weigh 0 it sees
    zeros. Other arguments, result and errors are those of `kl_divergence_loss`.

    >>> mean_over_rows(squared_logit_rows, torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([True, False]))
    tensor(1.)
    """
    student, teacher, weights = wide_rows(student_logits, teacher_logits, weights)
    rows = rows_loss(student, teacher)
    if weights is None:
        return rows.mean()
    total = weights.sum()
    return (rows * weights).sum() / total.where(total != 0, 1)


def wide_rows(
    student_logits: Tensor, teacher_logits: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The logits as (rows, classes) and the weights as (rows,), in float32 at least; zeros in rows that weigh 0.

    Raises:
        ValueError: the shapes differ.

    >>> wide_rows(torch.ones(2, 1), torch.ones(2, 1), torch.tensor([True, False]))
    (tensor([[1.],
            [0.]]), tensor([[1.],
            [0.]]), tensor([1., 0.]))
    """
    shape = student_logits.shape
    if shape != teacher_logits.shape:
        raise ValueError(f"the student's shape is {tuple(shape)}, the teacher's {tuple(teacher_logits.shape)}")
    student, teacher = (wide(logits).reshape(-1, shape[-1]) for logits in (student_logits, teacher_logits))
    if weights is None:
        return student, teacher, None
    if weights.shape != shape[:-1]:
        raise ValueError(f"the weights have the shape {tuple(weights.shape)}, the rows {tuple(shape[:-1])}")
    weights = weights.reshape(-1).to(student.dtype)
    counted = weights.unsqueeze(-1) != 0
    return student.where(counted, 0), teacher.where(counted, 0), weights


def wide(tensor: Tensor) -> Tensor:
    """float16, bfloat16 and bool as float32; others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16, torch.bool) else tensor


def _log_softmax(logits: Tensor, temperature: float | Tensor) -> Tensor:
    return F.log_softmax(logits / temperature, dim=-1)


def _kl(learned: Tensor, taught: Tensor) -> Tensor:
    return F.kl_div(learned, taught, reduction="none", log_target=True).sum(-1)


def _coarse(log_probabilities: Tensor, kept: Tensor) -> Tensor:
    others = log_probabilities.scatter(-1, kept, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_probabilities.gather(-1, kept), others], dim=-1)
