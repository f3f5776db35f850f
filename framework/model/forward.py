"""Calling a model to look at it: example inputs, eval mode, no gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["Forward", "buffers_kept", "call", "evaluating", "recomputes"]

Forward = Callable[[nn.Module, Any], Any]


def recomputes() -> bool:
    """Whether a forward runs inside of a backward: the same one again, as activation checkpointing does."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; each module's own mode comes back afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Buffers are what they were afterwards, values and objects, whatever a forward does to them or binds anew."""
    before = [
        (module, key, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for key, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, key, buffer, value in before:
                module._buffers[key] = buffer
                if buffer is not None and value is not None and not torch.equal(buffer, value):
                    buffer.copy_(value)


def call(model: nn.Module, example_inputs: Any, forward: Forward | None) -> Any:
    """One forward of the example inputs."""
    if forward is not None:
        return forward(model, example_inputs)
    if isinstance(example_inputs, Mapping):
        return model(**example_inputs)
    return model(*example_inputs) if isinstance(example_inputs, (tuple, list)) else model(example_inputs)
