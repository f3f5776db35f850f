"""Transferring the gradient of the loop's own loss to the outputs of other networks on the same batch.

The gradient of a softmax cross-entropy shows its targets; so its gradient is known at any other logits too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.framework.errors import ParedownError

__all__ = ["GradientTransfer", "gradient_there", "softmax_gradient"]

#: how far from a distribution what is read off a gradient may lie: that of half precision
TOLERANCE = 0.02


@dataclass
class GradientTransfer:
    """A tensor that gets, times ``share``, the gradient that the loop's own loss would have in the place of ``own``.

    With ``dimension`` both are logits with the classes there, and the loss is a softmax cross-entropy; without it both
    are losses themselves.
    """

    own: Tensor
    tensor: Tensor
    share: Tensor
    dimension: int | None = None


def gradient_there(
    gradient: Tensor | None,
    whole: float | Tensor,
    scale: Tensor,
    share: Tensor,
    tensor: Tensor,
    source: Tensor,
    dimension: int | None,
) -> Tensor | None:
    """The gradient of one receiver.

    Args:
        gradient: what the source gets; None where nothing reaches it.
        whole: undoes what was taken off the loop's loss.
        scale: that of the loop's loss, as far as it was declared.
        share: of the loop's loss for the receiver.
        tensor, source: the receiver and its source.
        dimension: see `GradientTransfer`.

    Raises:
        ParedownError: the loop's loss is no softmax cross-entropy.
    """
    if gradient is None:
        return None
    whole_gradient = gradient * whole
    if dimension is None:
        return (whole_gradient * share).to(tensor.dtype).expand_as(tensor)
    own, other, sent = (_rows(each, dimension) for each in (source, tensor, whole_gradient))
    found, distance = softmax_gradient(own, other, sent, scale)
    if not torch.compiler.is_compiling():
        _refuse_other_losses(found, distance)
    moved = found.reshape(tensor.movedim(dimension, -1).shape).movedim(-1, dimension)
    return (moved * share).to(tensor.dtype)


def _rows(tensor: Tensor, dimension: int) -> Tensor:
    moved = tensor.movedim(dimension, -1)
    wide = moved.float() if moved.dtype in (torch.float16, torch.bfloat16) else moved
    return wide.reshape(-1, wide.shape[-1])


def _refuse_other_losses(gradient: Tensor, distance: Tensor) -> None:
    if bool(torch.isfinite(gradient).all()) and float(distance) > TOLERANCE:
        raise ParedownError(
            "other networks are to learn from the loop's loss too, and it is no softmax cross-entropy of the logits, "
            "or scaled in a way that was not declared: their gradient cannot be read off it. Let the model return its "
            "loss beside the logits (as Hugging Face models do with labels), or take these modifiers out"
        )


def softmax_gradient(own: Tensor, other: Tensor, gradient: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of a softmax cross-entropy at other logits, from the one that it has at ``own``.

    That gradient is w (softmax(own) - target) in each row, so it is w (softmax(other) - softmax(own)) more elsewhere.
    The rows' weights w are ``scale`` / rows (a mean over the rows that have a gradient) where the targets then are
    distributions; else those for which the targets are single classes, which holds for any reduction.

    Args:
        own, other, gradient: (rows, classes).
        scale: 0-d; that of the loss.

    Returns:
        The gradient, and how far what is read as targets lies from distributions (0-d).
    """
    ours, theirs = own.softmax(-1), other.softmax(-1)
    counted = gradient.abs().amax(-1, keepdim=True) > 0
    mean = torch.where(counted, scale.to(ours.dtype) / counted.sum().clamp(min=1), 0.0)
    rising = gradient > 0
    alone = (gradient * rising).sum(-1, keepdim=True) / (ours * rising).sum(-1, keepdim=True).clamp(min=1e-30)
    off_mean = _distance(ours, gradient, mean, single=False)
    off_alone = _distance(ours, gradient, alone, single=True)
    row_weights = torch.where(off_mean <= TOLERANCE, mean, alone)
    return gradient + row_weights * (theirs - ours), torch.minimum(off_mean, off_alone)


def _distance(probabilities: Tensor, gradient: Tensor, row_weights: Tensor, single: bool) -> Tensor:
    """How far the targets that a gradient shows are from distributions, or from single classes."""
    targets = probabilities - gradient / row_weights.clamp(min=1e-30)
    outside = torch.maximum(-targets, targets - 1).amax(-1)
    missing = (targets.sum(-1) - 1).abs()
    apart = 1 - targets.amax(-1) if single else torch.zeros_like(missing)
    off = torch.maximum(torch.maximum(outside, missing), apart)
    return torch.where(row_weights[..., 0] > 0, off, 0.0).max()
