"""Optimizers as a user hands them over: in lists, and inside of wrappers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

__all__ = ["each_of", "layers_of", "train_any", "wrappers_in"]


def each_of(given: Any) -> list[Any]:
    """One, or the elements of a list."""
    return list(given) if isinstance(given, (list, tuple)) else [given]


def layers_of(given: Any) -> list[Any]:
    """Wrappers, outermost first, and last what is in them; a wrapper may inherit from Optimizer, as Accelerate's."""
    layers = [given]
    while (inner := getattr(layers[-1], "optimizer", None)) is not None:
        if isinstance(layers[-1], Optimizer) and not isinstance(inner, Optimizer):
            break
        layers.append(inner)
    return layers


def wrappers_in(given: Any) -> list[Any]:
    """What is around the optimizers that a user gives."""
    return [wrapper for one in each_of(given) for wrapper in layers_of(one)[:-1]]


def train_any(optimizers: Iterable[Any], model: nn.Module) -> bool:
    """Whether the optimizers hold one of the model's parameters."""
    held = {id(parameter) for one in optimizers for group in one.param_groups for parameter in group["params"]}
    return any(id(parameter) in held for parameter in model.parameters())
