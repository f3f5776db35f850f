"""Decoupled knowledge distillation: the target's share and the other classes, weighed apart."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from paredown.modifiers.distillation.losses.logit_rows import mean_over_rows

__all__ = ["decoupled_loss", "decoupled_parts", "decoupled_rows"]


def decoupled_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    temperature: float | Tensor = 4.0,
    weights: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), the mean over all rows (DKD, Zhao et al., 2022, arXiv:2203.08679).

    TCKD is the KL divergence between (target, all others) of teacher and student, NCKD that between their
    distributions over the others alone. With alpha 1 and beta 1 - p(target) of the teacher, the sum is the plain KL.

    Args:
        student_logits, teacher_logits: (..., classes) of one shape, two classes at least; float16 and bfloat16 are
            computed in float32.
        targets: (...), int64 indices of the true classes.
        temperature: above 0; larger ones soften both distributions.
        weights: (...), a weight for each row, bool or floating point; rows that weigh 0 get no gradient, and may have
            any target (-100, say). None: all rows weigh the same.
        alpha, beta: factors of the two parts.

    Returns:
        0-d, in float32 at least; the gradient flows into both logits.

    Raises:
        ValueError: the shapes differ.

    >>> decoupled_loss(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0]), temperature=1.0)
    tensor(0.1233)
    """
    if targets.shape != student_logits.shape[:-1]:
        raise ValueError(f"the targets have the shape {tuple(targets.shape)}, the logits {tuple(student_logits.shape)}")
    if weights is not None:
        targets = targets.where(weights != 0, 0)
    rows = partial(decoupled_rows, targets=targets.reshape(-1), temperature=temperature, alpha=alpha, beta=beta)
    return mean_over_rows(rows, student_logits, teacher_logits, weights)


def decoupled_rows(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    temperature: float | Tensor = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """`decoupled_loss` of each row: (rows, classes) in float32 or float64, and (rows,) targets, to (rows,)."""
    of_target, of_others = decoupled_parts(student, teacher, targets, temperature)
    return (alpha * of_target + beta * of_others) * temperature**2


def decoupled_parts(
    student: Tensor, teacher: Tensor, targets: Tensor, temperature: float | Tensor = 4.0
) -> tuple[Tensor, Tensor]:
    """(TCKD, NCKD) of each row, without the factor T^2.

    Args:
        student, teacher: (rows, classes) in float32 or float64.
        targets: (rows,), int64.
        temperature: above 0.

    Returns:
        Two tensors (rows,).

    >>> decoupled_parts(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0]), temperature=1.0)
    (tensor([0.1233]), tensor([0.]))
    """
    chosen = targets.unsqueeze(-1)
    learned, taught = (_parts(logits / temperature, chosen) for logits in (student, teacher))
    of_target, of_others = (
        F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
        for ours, theirs in zip(learned, taught, strict=True)
    )
    return of_target, of_others


def _parts(logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms: (target, all others), and the distribution over the others with 0 in the target's place."""
    others = logits.scatter(-1, chosen, -math.inf)
    pair = torch.cat([logits.gather(-1, chosen), others.logsumexp(-1, keepdim=True)], dim=-1)
    return F.log_softmax(pair, dim=-1), F.log_softmax(others, dim=-1).scatter(-1, chosen, 0.0)
