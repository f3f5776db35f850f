"""Losses between the attention of student and teacher; float16 and bfloat16 are computed in float32."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from paredown.modifiers.distillation.losses.divergences import kl_divergence_loss
from paredown.modifiers.distillation.losses.logit_rows import mean_over_rows, wide

__all__ = [
    "activation_map",
    "attention_distribution_loss",
    "attention_squared_loss",
    "attention_transfer_loss",
    "relation_loss",
]


def activation_map(feature: Tensor, power: float = 2) -> Tensor:
    """The mean over channels of |A|^power, as a vector of length 1 (AT, Zagoruyko & Komodakis, 2016, arXiv:1612.03928).

    Args:
        feature: (batch, channels, *spatial).
        power: 1 or more; larger ones look at the strongest places.

    Returns:
        (batch, product of spatial), each row of unit L2 length, or 0 where the feature is.

    >>> activation_map(torch.tensor([[[3.0, 0.0, 4.0]]]), power=1)
    tensor([[0.6000, 0.0000, 0.8000]])
    """
    return F.normalize(_activations(feature, power).flatten(1), dim=-1)


def attention_transfer_loss(student: Tensor, teacher: Tensor, power: float = 2) -> Tensor:
    """||Q(s) - Q(t)||^2 of the activation maps Q, the mean over the batch (AT, arXiv:1612.03928).

    The squares are summed over positions; the official code takes their mean (times beta; beta / 2 in the paper). Maps
    of different sizes are brought to the smaller of both by adaptive average pooling before they get their length of 1.

    Args:
        student, teacher: (batch, channels, *spatial), one to three spatial dimensions; channels and sizes may differ.
        power: of the activations, 1 or more.

    Returns:
        0-d, in float32 at least; the gradient flows into both features. ValueError where batches or numbers of
        dimensions differ, or there are no one to three spatial dimensions.

    >>> attention_transfer_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]))
    tensor(2.)
    """
    shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
    if student.dim() != teacher.dim() or len(student) != len(teacher) or not 3 <= student.dim() <= 5:
        raise ValueError(f"features of the shapes {shapes} are not (batch, channels, *spatial) with the same batch")
    sizes = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    ours, theirs = (
        F.normalize(F.interpolate(_activations(feature, power).unsqueeze(1), size=sizes, mode="area").flatten(1))
        for feature in (student, teacher)
    )
    return (ours - theirs).square().sum(-1).mean()


def attention_distribution_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """KL(t || s) of attention probabilities, the mean over batch, heads, queries (MiniLM, arXiv:2002.10957, eq. 4-5).

    Args:
        student, teacher: (batch, heads, queries, keys) of one shape, probabilities that may be 0.
        weights: (batch, queries), a weight for each query, bool or floating point; those that weigh 0 get no gradient,
            and the loss is 0 where all do. None: all weigh the same.

    Returns:
        0-d, in float32 at least; the gradient flows into both arguments. ValueError where shapes differ.

    >>> attention_distribution_loss(torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[1.0, 0.0]]]]))
    tensor(0.6931)
    """
    least = torch.finfo(student.dtype).tiny

    def rows(ours: Tensor, theirs: Tensor) -> Tensor:
        return (theirs * (theirs.clamp_min(least).log() - ours.clamp_min(least).log())).sum(-1)

    return mean_over_rows(rows, student, teacher, _over_heads(weights, student))


def attention_squared_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """(s - t)^2 of attention scores, the mean (TinyBERT, Jiao et al., 2019, arXiv:1909.10351, eq. 7).

    The scores before the softmax; what both mask with the same value (-inf, say) counts as equal. Arguments, result and
    errors are those of `attention_distribution_loss`.

    >>> attention_squared_loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    tensor(1.)
    """

    def rows(ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours - theirs).where(ours != theirs, 0).square().mean(-1)

    return mean_over_rows(rows, student, teacher, _over_heads(weights, student))


def relation_loss(student: Tensor, teacher: Tensor, heads: int = 1, weights: Tensor | None = None) -> Tensor:
    """KL(t || s) of softmax(X X^T / sqrt(width / heads)), the mean over batch, relation heads and tokens.

    The value relation of MiniLM (Wang et al., 2020, arXiv:2002.10957, eq. 6-7) for values X; MiniLMv2
    (arXiv:2012.15828) takes queries and keys too, and as many relation heads for both models.

    Args:
        student, teacher: (batch, tokens, width); widths may differ, and are multiples of the relation ``heads``.
        weights: (batch, tokens), bool or floating point: weights of tokens as queries. Those that weigh 0 are no keys
            either, and get no gradient; the loss is 0 where all do. None: all weigh the same.

    Returns:
        0-d, in float32 at least; the gradient flows into both arguments. ValueError where batches, tokens or the shape
        of the weights differ, or the heads do not divide the widths.

    >>> relation_loss(torch.zeros(1, 2, 4), torch.ones(1, 2, 6), heads=2)
    tensor(0.)
    """
    tokens = student.shape[:-1]
    agree = teacher.shape[:-1] == tokens and (weights is None or weights.shape == tokens)
    if not agree or student.shape[-1] % heads or teacher.shape[-1] % heads:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"states {shapes}: batch, tokens and weights must agree, and {heads} heads divide the widths")
    learned, taught = (_relations(states, heads, weights) for states in (student, teacher))
    return kl_divergence_loss(learned, taught, weights=_over_heads(weights, learned))


def _activations(feature: Tensor, power: float) -> Tensor:
    return wide(feature).abs().pow(power).mean(1)


def _over_heads(weights: Tensor | None, attention: Tensor) -> Tensor | None:
    return None if weights is None else weights.unsqueeze(1).expand(-1, attention.shape[1], -1)


def _relations(states: Tensor, heads: int, weights: Tensor | None) -> Tensor:
    """Scores (batch, heads, tokens, tokens), next to nothing at keys that do not count."""
    states = wide(states)
    if weights is not None:
        states = states.where(weights.unsqueeze(-1) != 0, 0)
    split = states.reshape(*states.shape[:-1], heads, -1).transpose(1, 2)
    scores = (split @ split.mT).div(math.sqrt(split.shape[-1]))
    if weights is None:
        return scores
    return scores.masked_fill((weights == 0)[:, None, None, :], torch.finfo(scores.dtype).min / 2)
