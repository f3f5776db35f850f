"""Checks of a layer's weight that every family makes before it changes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.model.targets import named_modules

__all__ = ["COMPUTED", "refuse_not_finite", "tied_to"]

#: of a layer whose weight is no parameter of its own
COMPUTED = "its weight is computed, not stored (a parametrization such as weight_norm or LoRA)"


def refuse_not_finite(name: str, module: nn.Module, consequence: str, parameters: Sequence[str] = ("weight",)) -> None:
    """Raise TargetError, naming the layer and the consequence, where one of its weights holds NaN or infinity."""
    for key in parameters:
        weight = module._parameters.get(key)
        if weight is not None and not bool(torch.isfinite(weight).all()):
            raise TargetError(f"the {key} of {name} contains NaN or infinity: {consequence}")


def tied_to(model: nn.Module, name: str) -> str | None:
    """The name of a module outside of the module ``name`` that shares a parameter with it, if there is one."""
    modules = named_modules(model)
    own = {id(parameter) for parameter in modules[name].parameters()}
    inside = {id(inner) for inner in modules[name].modules()}
    for other_name, other in modules.items():
        if id(other) not in inside and any(id(parameter) in own for parameter in other._parameters.values()):
            return other_name
    return None
