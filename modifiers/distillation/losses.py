"""Losses between what a student says and what its teacher says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["kl_divergence_loss"]


def kl_divergence_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)), the mean over all rows (Hinton et al., 2015, arXiv:1503.02531).

    The factor T^2 keeps the size of the gradients when the temperature changes.

    Args:
        student_logits, teacher_logits: (..., classes) of one shape; float16 and bfloat16 are computed in float32.
        temperature: above 0; larger ones soften both distributions.

    Returns:
        0-d, in float32 at least; the gradient flows into both arguments.

    Raises:
        ValueError: the shapes differ.

    >>> kl_divergence_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=4.0)
    tensor(0.)
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"the student's logits have the shape {tuple(student_logits.shape)}, "
            f"the teacher's {tuple(teacher_logits.shape)}"
        )
    student, teacher = (
        F.log_softmax(_wide(logits).reshape(-1, logits.shape[-1]) / temperature, dim=-1)
        for logits in (student_logits, teacher_logits)
    )
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
