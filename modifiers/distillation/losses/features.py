"""Losses between features of one shape: squared, relative and cosine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Size, Tensor

from paredown.modifiers.distillation.losses.logit_rows import wide

__all__ = ["cosine_loss", "relative_squared_loss", "squared_loss"]


def squared_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """(s - t)^2, the mean over all elements (TinyBERT, Jiao et al., 2019, arXiv:1909.10351, eq. 8).

    Args:
        student, teacher: (batch, ...) of one shape; float16 and bfloat16 are computed in float32.
        weights: bool or floating point, and broadcast to the shape of the features, such as (batch, tokens, 1); what
            weighs 0 gets no gradient, whatever it holds, and the loss is 0 where all does. None: all weighs the same.

    Returns:
        0-d, in float32 at least; the gradient flows into both features.

    Raises:
        ValueError: the shapes differ.

    >>> squared_loss(torch.ones(2, 3), torch.zeros(2, 3))
    tensor(1.)
    """
    student, teacher, weights = _counted(student, teacher, weights, student.shape)
    if weights is None:
        return F.mse_loss(student, teacher)
    return _sum_per_weight((student - teacher).square(), weights)


def relative_squared_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum((s - t)^2) / sum(t^2): the squared error in units of the teacher's mean square, which gets no gradient.

    One factor then fits layers of any scale; FitNets (Romero et al., 2015, arXiv:1412.6550, eq. 3) has the plain
    squared error. Where the teacher is 0 everywhere, the sum is divided by 1. Arguments, result and errors are those of
    `squared_loss`.

    >>> relative_squared_loss(torch.full((2, 3), 5.0), torch.full((2, 3), 10.0))
    tensor(0.2500)
    """
    student, teacher, weights = _counted(student, teacher, weights, student.shape)
    if weights is None:
        size: Tensor = torch.linalg.vector_norm(teacher.detach()).square()
        return F.mse_loss(student, teacher, reduction="sum") / size.where(size != 0, 1)
    size = (teacher.square() * weights).sum().detach()
    return ((student - teacher).square() * weights).sum() / size.where(size != 0, 1)


def cosine_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None, dimension: int = -1) -> Tensor:
    """1 - cos(s, t) of the vectors along a dimension, the mean over all of them (DistilBERT, arXiv:1910.01108).

    A vector of zeros has the cosine 0 with all. Arguments, result and errors are those of `squared_loss`; the weights
    are those of vectors, of size 1 in the dimension.

    >>> cosine_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(1.)
    """
    vectors = Size(1 if place == dimension % student.dim() else size for place, size in enumerate(student.shape))
    student, teacher, weights = _counted(student, teacher, weights, vectors)
    cosines = F.cosine_similarity(student, teacher, dim=dimension).unsqueeze(dimension)
    return _sum_per_weight(1 - cosines, weights)


def _counted(
    student: Tensor, teacher: Tensor, weights: Tensor | None, weighed: Size
) -> tuple[Tensor, Tensor, Tensor | None]:
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's features have the shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}"
        )
    student, teacher = wide(student), wide(teacher)
    if weights is None:
        return student, teacher, None
    pairs = zip(reversed(weights.shape), reversed(weighed), strict=False)
    if weights.dim() > len(weighed) or any(ours not in (1, theirs) for ours, theirs in pairs):
        raise ValueError(f"weights of the shape {tuple(weights.shape)} do not broadcast to {tuple(weighed)}")
    weights = weights.to(student.dtype).expand(weighed)
    return student.where(weights != 0, 0), teacher.where(weights != 0, 0), weights


def _sum_per_weight(losses: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return losses.mean()
    total = weights.sum()
    return (losses * weights).sum() / total.where(total != 0, 1)
