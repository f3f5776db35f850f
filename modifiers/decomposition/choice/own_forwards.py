"""Layers of classes that have a forward of their own: tried out, whether it computes what the ordinary layer does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.model.forward import call
from paredown.framework.model.kinds import Conv1D
from paredown.framework.model.links import base_class, without_links
from paredown.framework.model.temporary import buffers_kept, evaluating
from paredown.framework.modifier.training import Training
from paredown.modifiers.decomposition.forms.geometry import KINDS

__all__ = ["has_own_forward", "reasons_of_own_forwards"]

#: largest difference, relative to the largest output, that is none
TOLERANCE = 1e-5


def has_own_forward(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a layer may compute something else than the class of a kind that it comes from."""
    kind, origin = base_class(module), _origin(module, kinds)
    changed = any(getattr(kind, name, None) is not getattr(origin, name, None) for name in ("forward", "_conv_forward"))
    return changed or "forward" in vars(module)


def reasons_of_own_forwards(training: Training, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Why some of these layers, which have forwards of their own, cannot be decomposed; the others can.

    The model is run on its example inputs, and each layer has to give what the ordinary layer gives for what it gets,
    in eval and, where the model runs in it, in training mode.
    """
    example = training.data.example() if layers else None
    if example is None:
        return {
            name: f"its class {base_class(module).__name__} has a forward of its own; with example_inputs it is tried "
            "whether that computes what two layers would"
            for name, module in layers.items()
        }
    found = {name: _Compared(module) for name, module in layers.items()}
    model = training.model
    with without_links(model), evaluating(model), buffers_kept(model), torch.random.fork_rng(), ExitStack() as hooks:
        for each in found.values():
            hooks.callback(each.module.register_forward_hook(each, with_kwargs=True).remove)
        call(model, *example)
        model.train()
        with suppress(Exception):  # inputs for training are others
            call(model, *example)
    return {name: reason for name, each in found.items() if (reason := each.reason) is not None}


class _Compared:
    """A hook that compares a layer's results with the ordinary layer's."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.calls, self.alike = 0, True

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.calls += 1
        try:
            self.alike = self.alike and _same(output, _plain(module, *args, **kwargs))
        except Exception:  # arguments that an ordinary layer does not take
            self.alike = False

    @property
    def reason(self) -> str | None:
        name = base_class(self.module).__name__
        if self.calls and self.alike:
            return None
        if not self.calls:
            return f"its class {name} has a forward of its own, which was not run on the example inputs"
        return f"its class {name} has a forward of its own, which two layers would not compute"


def _origin(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Any:
    return next(each for each in base_class(module).__mro__ if each in kinds or each.__name__ == Conv1D.__name__)


def _plain(module: Any, *args: Any, **kwargs: Any) -> Any:
    origin = _origin(module, KINDS)
    if hasattr(origin, "_conv_forward"):
        return origin._conv_forward(module, *args, module.weight, module.bias, **kwargs)
    return origin.forward(module, *args, **kwargs)


def _same(ours: Any, theirs: Any) -> bool:
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor) or ours.shape != theirs.shape:
        return False
    return float((ours - theirs).abs().max()) <= TOLERANCE * float(theirs.abs().max())
