"""Transferring the gradient of the loop's own loss to the outputs of other networks on the same batch.

The gradient of a softmax cross-entropy shows its targets; so its gradient is known at any other logits too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.framework.auxiliary.cross_entropy import row_weights
from paredown.framework.errors import ParedownError

__all__ = ["OTHER_LOSS", "GradientTransfer", "gradient_there", "softmax_gradient"]

OTHER_LOSS = (
    "other networks are to learn from the loop's loss too, and it is no softmax cross-entropy of the logits with "
    "labels (plain, with class weights, or smoothed or mixed without; ignored labels included), or scaled in a "
    "way that was not declared: their gradient cannot be read off it. Let the model return its loss beside the "
    "logits (as Hugging Face models do with labels), or take these modifiers out"
)


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
    unread: Tensor | None = None,
) -> Tensor | None:
    """The gradient of one receiver.

    Args:
        gradient: what the source gets; None where nothing reaches it.
        whole: undoes what was taken off the loop's loss.
        scale: that of the loop's loss, as far as it was declared.
        share: of the loop's loss for the receiver.
        tensor, source: the receiver and its source.
        dimension: see `GradientTransfer`.
        unread: 0-d; of a compiled backward pass, which raises nothing: set to 1 instead.

    Raises:
        ParedownError: the loop's loss is no softmax cross-entropy.
    """
    if gradient is None:
        return None
    whole_gradient = gradient * whole
    if dimension is None:
        return (whole_gradient * share).to(tensor.dtype).expand_as(tensor)
    own, other, sent = (_rows(each, dimension) for each in (source, tensor, whole_gradient))
    found, refused = softmax_gradient(own, other, sent, scale, gradient.dtype)
    refused = refused & torch.isfinite(sent).all()  # what overflowed is left to the gradient scaler
    if unread is not None:
        with torch.no_grad():
            unread.add_(refused)
    elif bool(refused):
        raise ParedownError(OTHER_LOSS)
    moved = found.reshape(tensor.movedim(dimension, -1).shape).movedim(-1, dimension)
    return (moved * share).to(tensor.dtype)


def _rows(tensor: Tensor, dimension: int) -> Tensor:
    moved = tensor.movedim(dimension, -1)
    wide = moved.float() if moved.dtype in (torch.float16, torch.bfloat16) else moved
    return wide.reshape(-1, wide.shape[-1])


def softmax_gradient(
    own: Tensor, other: Tensor, gradient: Tensor, scale: Tensor, sent: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The gradient of a softmax cross-entropy at other logits, from the one that it has at ``own``.

    That gradient is w (softmax(own) - target) in each row, so it is w (softmax(other) - softmax(own)) more elsewhere.

    Args:
        own, other, gradient: (rows, classes).
        scale: 0-d; that of the loss.
        sent: the type in which the gradient came.

    Returns:
        The gradient, and whether it is none of a cross-entropy (0-d): see
        `paredown.framework.auxiliary.cross_entropy.row_weights`.
    """
    ours, theirs = own.softmax(-1), other.softmax(-1)
    found = row_weights(ours, gradient, scale, sent)
    return gradient + found.weights[:, None] * (theirs - ours), found.refused
