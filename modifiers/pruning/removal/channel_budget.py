"""Budgets of physical pruning: what a model may cost, and what it would cost with fewer channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, Strict
from torch import nn

from paredown.framework.model.graph.trace import operator_name
from paredown.framework.model.targets import named_parameters
from paredown.framework.modifier.fields import Budget
from paredown.modifiers.pruning.removal.channels import Analysis, Removal, gone_at

__all__ = ["ChannelBudget", "cost_of", "smallest_share", "weight_uses"]

ShareOfCost = Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)]
#: halvings of the interval in which the share is looked for
STEPS = 20


class ChannelBudget(Budget):
    """What the model may cost afterwards, as a share of what it cost before; one of the three, or several at once."""

    several: ClassVar = True

    parameters: ShareOfCost | None = None
    """Of the parameters of the whole model."""
    macs: ShareOfCost | None = None
    """Of the multiply-accumulates with weights (layers; attention's products of activations are not counted)."""
    latency: ShareOfCost | None = None
    """Of the CPU time of a forward of the example inputs, measured in ``run.engine``, in torch where none is named."""


def weight_uses(analysis: Analysis, kind: str) -> dict[str, int]:
    """How often each element of a parameter counts: once, or in how many multiply-accumulates."""
    graph = analysis.graph
    if kind == "parameters":
        return {}
    uses: dict[str, int] = {}
    for node in graph.nodes:
        name = operator_name(node)
        if name == "linear" or name.startswith("conv"):
            weight = graph.own_parameter(node.args[1])
            if weight is not None:
                uses[weight] = uses.get(weight, 0) + _positions(node, name)
        elif name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            batch = math.prod(node.args[0].meta["val"].shape[:-1])  # type: ignore[union-attr]
            for each in node.args[2]:  # type: ignore[union-attr]
                weight = graph.own_parameter(each)
                if weight is not None and each.meta["val"].dim() == 2:  # type: ignore[union-attr]
                    uses[weight] = uses.get(weight, 0) + batch
    return uses


def _positions(node: Any, name: str) -> int:
    value = node.args[0].meta["val"] if "transpose" in name else node.meta["val"]
    return int(value.numel() // node.args[1].meta["val"].shape[0])


def cost_of(model: nn.Module, uses: Mapping[str, int], removals: Sequence[Removal] = ()) -> int:
    """Parameters, or multiply-accumulates, of a model after units were removed.

    Args:
        model: as it is.
        uses: from `weight_uses`; empty: parameters are counted.
        removals: what goes.
    """
    shapes = {name: list(parameter.shape) for name, parameter in named_parameters(model).items()}
    for (name, dimension), indices in gone_at(removals).items():
        if name in shapes:
            shapes[name][dimension] -= len(indices)
    return sum(math.prod(shape) * (uses.get(name, 0) if uses else 1) for name, shape in shapes.items())


def smallest_share(fits: Callable[[float], bool], steps: int = STEPS, least: float = 0.0) -> float:
    """The smallest share from ``least`` to 1 that fits, or 1 if none does; what is larger than one that fits, fits."""
    if fits(least):
        return least
    low, high = least, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
