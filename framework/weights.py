"""What every family asks of a layer's weight before it changes it."""

from __future__ import annotations

import torch
from torch import nn

from paredown.framework.errors import TargetError

__all__ = ["COMPUTED", "refuse_not_finite"]

#: of a layer whose weight is no parameter of its own
COMPUTED = "its weight is computed, not stored (a parametrization such as weight_norm or LoRA)"


def refuse_not_finite(name: str, module: nn.Module, consequence: str) -> None:
    """Raise TargetError, naming the layer and the consequence, where its weight holds NaN or infinity."""
    weight = module._parameters.get("weight")
    if weight is not None and not bool(torch.isfinite(weight).all()):
        raise TargetError(f"the weight of {name} contains NaN or infinity: {consequence}")
