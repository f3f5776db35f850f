"""`magnitude_pruning`: the weights of smallest absolute value become zero."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from paredown.framework.curves import Curve
from paredown.framework.modifier import Share, TargetedModifier
from paredown.framework.time import Time


class MagnitudePruning(TargetedModifier):
    """Gradual magnitude pruning (Zhu & Gupta, 2017, arXiv:1710.01878)."""

    example: ClassVar = {"final_sparsity": 0.5}
    claims: ClassVar = frozenset({"zeros"})
    kinds: ClassVar = (nn.Linear, nn.modules.conv._ConvNd)

    type: Literal["magnitude_pruning"] = "magnitude_pruning"
    every: Time | None = None
    """Distance between updates. Default: a fiftieth of the window, at least one step."""
    hold: bool = True
    """Keep the zeros after the window's end; false lets the pruned weights train again, from zero."""
    initial_sparsity: Share = 0.0
    """Share of zeros at the start of the window."""
    final_sparsity: Share
    """Share of zeros from the end of the window on."""
    curve: Curve = "cubic"
    scope: Literal["global", "local"] = "global"
    """What competes: all targets together, or each one for itself."""
    masks: Literal["fast", "compact"] = "fast"
    """Speed against memory: 4 bytes a weight, or 1."""
