"""Temporary changes of a model, undone at the end of a block: eval mode, other modules, buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from paredown.framework.model.targets import named_modules

__all__ = ["buffers_kept", "evaluating", "modules_replaced"]


@contextmanager
def modules_replaced(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """The model with these modules by plain name, under all the names that the old ones have; no optimizer follows.

    Args:
        model: the user's own module; not itself among the names.
        modules: the replacements; that their mode is right is up to the caller.
    """
    known = named_modules(model)
    news = {id(known[name]): new for name, new in modules.items()}
    places = [
        (parent, key, child)
        for parent in model.modules()
        for key, child in parent._modules.items()
        if id(child) in news
    ]
    try:
        for parent, key, child in places:
            parent._modules[key] = news[id(child)]
        yield
    finally:
        for parent, key, child in places:
            parent._modules[key] = child


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
    """Buffers are what they were afterwards, values and objects, whatever a forward does to them or rebinds."""
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
