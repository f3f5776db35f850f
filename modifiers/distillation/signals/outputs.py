"""Finding logits, losses and attention in whatever a model returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.auxiliary.losses import Pass
from paredown.framework.errors import TargetError

__all__ = [
    "TeacherOutput",
    "class_dimension_of",
    "labelled",
    "labels_of",
    "logits_of",
    "loss_in",
    "predicts_next",
    "same_classes",
]


def logits_of(output: Any) -> Tensor:
    """The logits: the output itself, its ``logits``, or the first tensor of a tuple or list that is no 0-d loss.

    Raises:
        TargetError: there are none.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if logits is None and isinstance(output, (tuple, list)):
        logits = next((part for part in output if isinstance(part, Tensor) and part.dim()), None)
    if not isinstance(logits, Tensor):
        raise TargetError(
            f"no logits in a {type(output).__name__}: a tensor, a tuple or a mapping with 'logits' is read. Hidden "
            "states are compared by feature_distillation or relational_distillation"
        )
    return logits


def class_dimension_of(logits: Tensor) -> int:
    """Where classes are by torch's custom: second in (batch, classes, height, width) and more, else last."""
    return 1 if logits.dim() > 3 else -1


def same_classes(student: Tensor, teacher: Tensor, truncate: bool) -> tuple[Tensor, Tensor]:
    """Both logits (..., classes) with as many classes.

    Args:
        student, teacher: the logits.
        truncate: whether the larger vocabulary is cut to the smaller one; its first classes are kept.

    Raises:
        TargetError: the shapes differ otherwise.
    """
    if truncate and student.shape[:-1] == teacher.shape[:-1]:
        least = min(student.shape[-1], teacher.shape[-1])
        return student[..., :least], teacher[..., :least]
    if student.shape != teacher.shape:
        hint = "; truncate_vocabulary: true keeps the first classes of the larger one" if student.dim() > 2 else ""
        raise TargetError(
            f"the student's logits have the shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}: "
            f"they must agree{hint}"
        )
    return student, teacher


def labels_of(forward: Pass, logits: Tensor, ahead: bool) -> Tensor | None:
    """The labels that the forward was given as ``labels``, one for each row of logits (..., classes), if it was.

    Args:
        forward: of the student.
        logits: with the classes last.
        ahead: whether the logits at one place predict the label of the next; the last place then has none (-100).
    """
    labels = forward.kwargs.get("labels")
    if not isinstance(labels, Tensor) or labels.shape != logits.shape[:-1] or labels.is_floating_point():
        return None
    labels = labels.to(logits.device)
    return torch.cat([labels[..., 1:], torch.full_like(labels[..., :1], -100)], -1) if ahead else labels


def labelled(labels: Tensor | None) -> Tensor | None:
    """Which rows have a label; None, all of them, where no labels were given."""
    return None if labels is None else labels >= 0


def predicts_next(model: nn.Module) -> bool:
    """Whether it is a causal language model of Hugging Face, which shifts the labels itself."""
    names = [kind.__name__ for kind in type(model).__mro__]
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def loss_in(output: Any) -> Tensor | None:
    """The loss that a model gives beside its logits, if it does."""
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return loss if isinstance(loss, Tensor) and loss.requires_grad else None


TeacherOutput = Callable[[Pass], Any]
