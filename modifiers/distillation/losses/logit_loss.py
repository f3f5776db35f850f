"""The loss between logits: how a recipe names it, and what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, Strict
from torch import Tensor

from paredown.framework.modifier.curves import Number
from paredown.framework.modifier.fields import Options
from paredown.modifiers.distillation.losses.chunks import in_row_chunks
from paredown.modifiers.distillation.losses.correlation import correlation_loss
from paredown.modifiers.distillation.losses.decoupled import decoupled_rows
from paredown.modifiers.distillation.losses.logit_rows import (
    jensen_shannon_rows,
    kl_divergence_rows,
    mean_over_rows,
    reverse_kl_rows,
    squared_logit_rows,
    top_k_rows,
    wide,
)
from paredown.modifiers.distillation.signals.outputs import labelled

__all__ = ["LogitLoss", "Loss", "loss_of"]

Temperature = float | Tensor
#: (student's logits, teacher's logits, temperature, labels or None) to a 0-d tensor; a label below 0 leaves its row out
Loss = Callable[[Tensor, Tensor, Temperature, Tensor | None], Tensor]
Factor = Annotated[Number, Field(ge=0)]

#: logits of more elements than this are taken in pieces of an eighth as many
LARGEST = 2**22
Name = Literal["kl", "decoupled", "dist", "jensen_shannon", "reverse_kl", "mse", "top_k"]
ROWS: Mapping[str, Callable[..., Tensor]] = {
    "kl": kl_divergence_rows,
    "jensen_shannon": jensen_shannon_rows,
    "reverse_kl": reverse_kl_rows,
    "mse": squared_logit_rows,
    "top_k": top_k_rows,
}


class DecoupledFactors(Options):
    """Factors of decoupled knowledge distillation."""

    alpha: Factor = 1.0
    """Of the target class against all others."""
    beta: Factor = 8.0
    """Of the distribution over the other classes."""


class Decoupled(Options):
    """``{decoupled: {alpha: 1, beta: 8}}``."""

    decoupled: DecoupledFactors


class CorrelationFactors(Options):
    """Factors of DIST."""

    inter: Factor = 1.0
    """Of the correlations over the classes of each sample."""
    intra: Factor = 1.0
    """Of the correlations over the samples of each class."""


class Dist(Options):
    """``{dist: {inter: 1, intra: 1}}``."""

    dist: CorrelationFactors


class TopK(Options):
    """``{top_k: 10}``."""

    top_k: Annotated[int, Strict(), Field(ge=1)]
    """Classes that are kept apart, those that the teacher finds the most probable."""


FORMS: dict[str, type[Options]] = {"decoupled": Decoupled, "dist": Dist, "top_k": TopK}


def _picked(value: Any) -> Any:
    """Pick the form by its one key, so that a mistake is reported for that form alone."""
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or next(iter(value)) not in FORMS:
        raise ValueError(
            f"{value!r} is no loss; a name, {{decoupled: {{alpha: 1, beta: 8}}}}, {{dist: {{inter: 1, intra: 1}}}} or "
            "{top_k: 10}"
        )
    return FORMS[next(iter(value))].model_validate(value)


LogitLoss = Annotated[Name | Decoupled | Dist | TopK, BeforeValidator(_picked)]


def loss_of(loss: str | Options) -> Loss:
    """The loss that a recipe names, over logits (..., classes)."""
    if loss == "dist" or isinstance(loss, Dist):
        factors = loss.dist if isinstance(loss, Dist) else CorrelationFactors()
        return partial(_correlation, factors)
    if loss == "decoupled" or isinstance(loss, Decoupled):
        apart = loss.decoupled if isinstance(loss, Decoupled) else DecoupledFactors()
        return partial(_by_rows, partial(decoupled_rows, alpha=apart.alpha, beta=apart.beta), True)
    if isinstance(loss, TopK):
        return partial(_by_rows, partial(top_k_rows, k=loss.top_k), False)
    return partial(_by_rows, ROWS[str(loss)], False)


def _by_rows(
    rows: Callable[..., Tensor],
    targeted: bool,
    student: Tensor,
    teacher: Tensor,
    temperature: Temperature,
    labels: Tensor | None,
) -> Tensor:
    """The mean over rows, in pieces where the logits are large."""
    of_rows = partial(rows, temperature=temperature)
    more = (_targets(teacher, labels).reshape(-1),) if targeted else ()
    weights = labelled(labels)
    if student.numel() <= LARGEST or student.shape != teacher.shape:
        return mean_over_rows(lambda ours, theirs: of_rows(ours, theirs, *more), student, teacher, weights)
    classes = student.shape[-1]
    flat = None if weights is None else wide(weights.reshape(-1))
    shares = None if flat is None else flat / flat.sum().clamp(min=1)
    ours, theirs = student.reshape(-1, classes), teacher.reshape(-1, classes)
    return in_row_chunks(of_rows, ours, theirs, shares, max(LARGEST // classes // 8, 1), *more)


def _targets(teacher: Tensor, labels: Tensor | None) -> Tensor:
    """The labels; where there is none, the teacher's first choice."""
    first = teacher.argmax(-1)
    return first if labels is None else torch.where(labels < 0, first, labels)


def _correlation(
    factors: CorrelationFactors, student: Tensor, teacher: Tensor, temperature: Temperature, labels: Tensor | None
) -> Tensor:
    return correlation_loss(student, teacher, temperature, labelled(labels), factors.inter, factors.intra)
