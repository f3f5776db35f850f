"""A moving average of a model's weights."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["average_", "averaging_decay"]


def averaging_decay(decay: float, step: int) -> float:
    """Mean teachers (Tarvainen & Valpola, 2017, arXiv:1703.01780): 1 - 1 / (step + 1) in the first steps, so that the
    average follows quickly, and ``decay`` later.

    >>> averaging_decay(0.99, 0), averaging_decay(0.99, 9), averaging_decay(0.99, 5000)
    (0.0, 0.9, 0.99)
    """
    return min(decay, 1 - 1 / (step + 1))


@torch.no_grad()
def average_(averaged: nn.Module, model: nn.Module, decay: float) -> bool:
    """averaged = decay x averaged + (1 - decay) x model, for all parameters; buffers are copied.

    Args:
        averaged: changed in place.
        model: of the same structure; it may have more.
        decay: in 0..1.

    Returns:
        Whether the model still has all tensors of the average in their shapes; nothing is changed otherwise.
    """
    theirs = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    ours = {**dict(averaged.named_parameters()), **dict(averaged.named_buffers())}
    if any(name not in theirs or theirs[name].shape != tensor.shape for name, tensor in ours.items()):
        return False
    parameters = [name for name, _ in averaged.named_parameters()]
    if parameters:
        torch._foreach_lerp_(
            [ours[name] for name in parameters], [theirs[name].detach() for name in parameters], 1 - decay
        )
    for name, buffer in averaged.named_buffers():
        buffer.copy_(theirs[name])
    return True
