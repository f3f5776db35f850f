"""Divergences between the class probabilities of a student and of its teacher."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from paredown.modifiers.distillation.losses.logit_rows import (
    jensen_shannon_rows,
    kl_divergence_rows,
    mean_over_rows,
    reverse_kl_rows,
    squared_logit_rows,
    top_k_rows,
    wide,
)

__all__ = [
    "jensen_shannon_loss",
    "kl_divergence_loss",
    "reverse_kl_loss",
    "squared_logit_loss",
    "standardized",
    "top_k_loss",
]


def kl_divergence_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0, weights: Tensor | None = None
) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)), the mean over all rows (Hinton et al., 2015, arXiv:1503.02531).

    The factor T^2 keeps the size of the gradients when the temperature changes.

    Args:
        student_logits, teacher_logits: (..., classes) of one shape; float16 and bfloat16 are computed in float32.
        temperature: above 0; larger ones soften both distributions.
        weights: (...), a weight for each row, bool or floating point; rows that weigh 0 get no gradient, whatever they
            hold, and the loss is 0 where all do. None: all rows weigh the same.

    Returns:
        0-d, in float32 at least; the gradient flows into both arguments.

    Raises:
        ValueError: the shapes differ.

    >>> kl_divergence_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=4.0)
    tensor(0.)
    """
    return mean_over_rows(partial(kl_divergence_rows, temperature=temperature), student_logits, teacher_logits, weights)


def reverse_kl_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0, weights: Tensor | None = None
) -> Tensor:
    """T^2 KL(softmax(s / T) || softmax(t / T)), the mean over all rows (MiniLLM, Gu et al., 2023, arXiv:2306.08543).

    The student leaves out classes that it cannot match rather than spreading over all of the teacher's. Arguments,
    result
    and errors are those of `kl_divergence_loss`.

    >>> reverse_kl_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(0.1201)
    """
    return mean_over_rows(partial(reverse_kl_rows, temperature=temperature), student_logits, teacher_logits, weights)


def jensen_shannon_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0, weights: Tensor | None = None
) -> Tensor:
    """T^2 (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, the mean over all rows (as in GKD, arXiv:2306.13649).

    p and q are the softmax of t / T and s / T; it is symmetric and at most T^2 ln 2. Arguments, result and errors are
    those of `kl_divergence_loss`.

    >>> jensen_shannon_loss(torch.tensor([[0.0, 1e4]]), torch.tensor([[1e4, 0.0]]))
    tensor(0.6931)
    """
    return mean_over_rows(
        partial(jensen_shannon_rows, temperature=temperature), student_logits, teacher_logits, weights
    )


def squared_logit_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0, weights: Tensor | None = None
) -> Tensor:
    """(s - t)^2, the mean over classes and rows (Ba & Caruana, arXiv:1312.6184; Kim et al., arXiv:2105.08919).

    The temperature cancels: T^2 (s / T - t / T)^2. Arguments, result and errors are those of `kl_divergence_loss`.

    >>> squared_logit_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(2.)
    """
    return mean_over_rows(squared_logit_rows, student_logits, teacher_logits, weights)


def top_k_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor = 1.0,
    weights: Tensor | None = None,
    k: int = 10,
) -> Tensor:
    """`kl_divergence_loss` of the teacher's k most probable classes and one more that holds the sum of all others.

    Never more than the loss of all classes, and the same where k is at least their number. Other arguments, result and
    errors are those of `kl_divergence_loss`; a k below 1 is a ValueError too.

    >>> top_k_loss(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]]), k=1)
    tensor(0.3133)
    """
    if k < 1:
        raise ValueError(f"k is {k}: at least one class is kept apart")
    rows = partial(top_k_rows, temperature=temperature, k=k)
    return mean_over_rows(rows, student_logits, teacher_logits, weights)


def standardized(logits: Tensor) -> Tensor:
    """(z - mean) / (std + 1e-7) of each row (logit standardization, Sun et al., 2024, arXiv:2403.01427).

    The standard deviation is that of the official code, ``torch.std`` with n - 1; the paper's equation has n.

    Args:
        logits: (..., classes), two classes at least; float16 and bfloat16 are computed in float32.

    Returns:
        The shape of ``logits``; finite where all logits of a row are the same.

    >>> standardized(torch.tensor([[1.0, 2.0, 3.0]])).round(decimals=4)
    tensor([[-1.,  0.,  1.]])
    """
    logits = wide(logits)
    deviation, mean = torch.std_mean(logits, dim=-1, keepdim=True)
    return (logits - mean) / (deviation + 1e-7)
