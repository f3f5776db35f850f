"""A model with other modules in some places, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from paredown.framework.model.targets import named_modules

__all__ = ["exchanged"]


@contextmanager
def exchanged(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """The model with these modules by plain name, under all the names that the old ones have; no optimizer follows.

    Args:
        model: the user's own module; not itself among the names.
        modules: what stands there; those in the same mode as the old ones are the caller's business.
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
