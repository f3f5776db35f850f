"""Calling a model on example inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["Forward", "call", "is_transformed", "recomputes"]

Forward = Callable[[nn.Module, Any], Any]


def recomputes() -> bool:
    """Whether a forward runs inside of a backward: the same one again, as activation checkpointing does."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def is_transformed() -> bool:
    """Whether torch.func differentiates or maps what runs, and nothing that is there may be written."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def call(model: nn.Module, example_inputs: Any, forward: Forward | None) -> Any:
    """One forward of the example inputs."""
    if forward is not None:
        return forward(model, example_inputs)
    if isinstance(example_inputs, Mapping):
        return model(**example_inputs)
    return model(*example_inputs) if isinstance(example_inputs, (tuple, list)) else model(example_inputs)
