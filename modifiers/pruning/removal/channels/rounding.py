"""Telling a wrong cut from rounding: in twice the precision, against what rounding does to the model itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from paredown.modifiers.pruning.removal.channels.trial import Runner, difference, largest_error, same_shapes

__all__ = ["beyond_rounding"]

#: how much more than what rounding does to the model itself may differ
FACTOR = 16.0

Changed = Callable[[], AbstractContextManager[None]]


def beyond_rounding(run: Runner, training: bool, masked: Changed, cut: Changed) -> str | None:
    """What is different between a model with zeros and one that is cut, beyond rounding; None: nothing.

    A deep network with many normalisations enlarges rounding, in training mode by any factor. So both are compared in
    float64 where the model runs in it, and with what a change of its weights by their last digit does to it.

    Args:
        run: the model.
        training: whether it is run in training mode.
        masked, cut: contexts in which the model has zeros, or is cut.

    Raises:
        Exception: whatever the user's code raises.
    """
    try:
        with _doubled(run):
            return _compared(run, training, masked, cut)
    except Exception:  # a part of the model that has a precision of its own, beside parameters, buffers and inputs
        return _compared(run, training, masked, cut)


def _compared(run: Runner, training: bool, masked: Changed, cut: Changed) -> str | None:
    outputs = run.training if training else run
    with masked():
        wanted = outputs()
        with _shaken(run.model):
            shaken = outputs()
    with cut():
        ours = outputs()
    reason = difference(ours, wanted)
    if reason is None or not same_shapes(ours, wanted):
        return reason
    return None if largest_error(ours, wanted) <= FACTOR * largest_error(shaken, wanted) else reason


@contextmanager
def _doubled(run: Runner) -> Iterator[None]:
    """The model and its inputs in float64; they are as they were afterwards."""
    tensors = [*run.model.parameters(), *run.model.buffers()]
    before = [(tensor, tensor.data) for tensor in tensors if tensor.is_floating_point()]
    inputs, precision = run.inputs, torch.get_default_dtype()
    try:
        for tensor, data in before:
            tensor.data = data.double()
        run.inputs = tree_map(_double, inputs)
        torch.set_default_dtype(torch.float64)
        yield
    finally:
        torch.set_default_dtype(precision)
        run.inputs = inputs
        for tensor, data in before:
            tensor.data = data


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def _shaken(model: nn.Module) -> Iterator[None]:
    """The model with weights that are changed by their last digit; they are as they were afterwards."""
    generator = torch.Generator().manual_seed(0)
    before = [(each, each.detach().clone()) for each in model.parameters() if each.is_floating_point()]
    try:
        with torch.no_grad():
            for parameter, value in before:
                noise = torch.randn(value.shape, generator=generator).to(value)
                parameter.mul_(1 + 2 * torch.finfo(value.dtype).eps * noise)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)
