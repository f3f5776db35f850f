"""DIST: the loss that matches a teacher's probabilities up to shift and scale."""

from __future__ import annotations

import torch
from torch import Tensor

from paredown.modifiers.distillation.losses.logit_rows import wide_rows

__all__ = ["correlation_loss"]


def correlation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor = 1.0,
    weights: Tensor | None = None,
    inter: float = 1.0,
    intra: float = 1.0,
) -> Tensor:
    """T^2 (inter (1 - r of the rows) + intra (1 - r of the classes)) (DIST, Huang et al., 2022, arXiv:2205.10536).

    r is the mean of Pearson's correlations between student and teacher, of the probabilities softmax(logits / T): over
    the classes of each row, and over the rows of each class. As in the official code, 1e-8 is added to the product of
    the norms, so that what is constant correlates with nothing (and a gradient there is large, but finite).

    Args:
        student_logits, teacher_logits: (..., classes) of one shape; float16 and bfloat16 are computed in float32.
        temperature: above 0.
        weights: (...), a weight for each row in all means, bool or floating point; rows that weigh 0 take no part and
            get no gradient, and the loss is 0 where all do. None: all rows weigh the same.
        inter, intra: factors of the two parts. The second is 0 where fewer than two rows count.

    Returns:
        0-d, in float32 at least; the gradient flows into both logits.

    Raises:
        ValueError: the shapes differ.

    >>> correlation_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])).round(decimals=3)
    tensor(2.)
    """
    student, teacher, weights = wide_rows(student_logits, teacher_logits, weights)
    weights = torch.ones_like(student[:, 0]) if weights is None else weights
    learned, taught = (logits.div(temperature).softmax(-1) for logits in (student, teacher))
    of_rows = _correlations(learned.T, taught.T, torch.ones_like(learned.T[:, :1]))
    of_classes = _correlations(learned, taught, weights.unsqueeze(-1))
    total, several = weights.sum(), (weights != 0).sum() > 1
    between_classes = ((1 - of_rows) * weights).sum() / total.where(total != 0, 1)
    within_classes = (1 - of_classes).mean().where(several, 0)
    return (inter * between_classes + intra * within_classes) * temperature**2


def _correlations(learned: Tensor, taught: Tensor, weights: Tensor) -> Tensor:
    """Pearson's r of each column, of rows with weights of the shape (rows, 1)."""
    total = weights.sum()
    share = weights / total.where(total != 0, 1)
    root = weights.sqrt()
    ours, theirs = ((columns - (columns * share).sum(0)) * root for columns in (learned, taught))
    norms = torch.linalg.vector_norm(ours, dim=0) * torch.linalg.vector_norm(theirs, dim=0)
    together: Tensor = (ours * theirs).sum(0) / (norms + 1e-8)
    return together
