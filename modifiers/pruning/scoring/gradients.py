"""Gradients that criteria read: those of the loop's own steps, or of a loss on calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.distributed.processes import mean_of_all
from paredown.framework.errors import ScheduleError
from paredown.framework.model.temporary import evaluating
from paredown.framework.modifier.training import Training

__all__ = ["loss_gradients", "loss_of", "losses_on_data", "step_gradients"]


def step_gradients(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The gradients that the optimizer step just used, by name, those of pruned weights among them; weights that got
    none are left out. A gradient scaler's factor is gone from them: fused optimizers write back what they unscaled."""
    found = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    return {name: gradient.to_dense() if gradient.is_sparse else gradient for name, gradient in found.items()}


def loss_gradients(training: Training, weights: Mapping[str, nn.Parameter]) -> Iterator[dict[str, Tensor]]:
    """The gradients of the loss of each batch of ``data`` (`loss_of`), over all processes; parameters' own ``.grad``
    stay as they are.

    Raises:
        ScheduleError: all weights are frozen; see also `losses_on_data`.
    """
    asked = {name: weight for name, weight in weights.items() if weight.requires_grad}
    if not asked:
        raise ScheduleError(f"{training.name} weighs by gradients, and all of its weights are frozen")
    for loss in losses_on_data(training):
        found = torch.autograd.grad(loss, list(asked.values()), allow_unused=True)
        given = {name: each for name, each in zip(asked, found, strict=True) if each is not None}
        yield dict(zip(given, mean_of_all(list(given.values())), strict=True))


def losses_on_data(training: Training) -> Iterator[Tensor]:
    """The loss of each batch, in eval mode, with a graph.

    Raises:
        ScheduleError: there is no data, or no loss can be computed for a batch.
    """
    with evaluating(training.model), torch.enable_grad(), training.data.in_one_process():
        for batch in training.data.first():
            yield loss_of(training.data.call(batch), batch, training.name)


def loss_of(output: Any, batch: Any, owner: str) -> Tensor:
    """The loss that the model itself gives (``output.loss``); else, for a batch (inputs, targets): the cross-entropy
    where the targets are integers, for logits of (batch, classes, ...) or (batch, tokens, classes), the mean squared
    error where they are numbers in the shape of the output.

    Raises:
        ScheduleError: none of these.
    """
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if own is not None:
        return _tensor(own)
    targets = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if isinstance(targets, Tensor) and isinstance(output, Tensor):
        targets = targets.to(output.device)
        logits = None if targets.is_floating_point() else _classes_last(output, targets)
        if logits is not None:
            return nn.functional.cross_entropy(logits.float(), targets.long().flatten())
        if targets.is_floating_point() and targets.shape == output.shape:
            return nn.functional.mse_loss(output, targets.to(output.dtype))
    raise ScheduleError(
        f"{owner} needs the loss of a batch of data: give batches (inputs, targets) with class indices or with "
        "targets in the shape of the output, a model whose output has a loss, or train with a window that is longer "
        "than a step, so that the loop's own gradients can be read"
    )


def _classes_last(output: Tensor, targets: Tensor) -> Tensor | None:
    """Logits as (samples, classes), of (batch, classes, ...) or (batch, tokens, classes); None where the targets fit
    neither, or a sequence is as long as there are classes."""
    if output.dim() < 2:
        return None
    second = targets.shape == (output.shape[0], *output.shape[2:]) or (
        output.dim() == 2 and targets.shape == (output.shape[0], 1)
    )
    last = output.dim() > 2 and targets.shape == output.shape[:-1]
    if second == last:
        return None
    return output.movedim(1, -1).flatten(0, -2) if second else output.flatten(0, -2)


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
