"""Calling a model to look at it: example inputs, eval mode, no gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["Forward", "call", "evaluating"]

Forward = Callable[[nn.Module, Any], Any]


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


def call(model: nn.Module, example_inputs: Any, forward: Forward | None) -> Any:
    """One forward of the example inputs."""
    if forward is not None:
        return forward(model, example_inputs)
    if isinstance(example_inputs, Mapping):
        return model(**example_inputs)
    return model(*example_inputs) if isinstance(example_inputs, (tuple, list)) else model(example_inputs)
