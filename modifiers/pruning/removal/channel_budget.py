"""Budgets of physical pruning: what a model may cost, and what it would cost with fewer channels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, Strict
from torch import nn

from paredown.framework.measure.products import count_products
from paredown.framework.model.forward import Forward
from paredown.framework.model.targets import named_parameters
from paredown.framework.modifier.fields import Budget
from paredown.modifiers.pruning.removal.channels import (
    Analysis,
    Product,
    Removal,
    gone_at,
    labels_gone,
    multiply_accumulates,
    products_of,
)

__all__ = ["ChannelBudget", "Costs", "smallest_share"]

ShareOfCost = Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)]
#: halvings of the interval in which the share is looked for
STEPS = 20


class ChannelBudget(Budget):
    """What the model may cost afterwards, as a share of what it cost before; one of the three, or several at once."""

    several: ClassVar = True

    parameters: ShareOfCost | None = None
    """Of the parameters of the whole model."""
    macs: ShareOfCost | None = None
    """Of the multiply-accumulates with weights, as the report counts them: layers, and whatever else multiplies with
    parameters (attention's products of activations are not counted)."""
    latency: ShareOfCost | None = None
    """Of the CPU time of a forward of the example inputs, measured in ``run.engine``, in torch where none is named."""


class Costs:
    """What a model costs, as the report counts it, and what it would cost with fewer channels.

    Args:
        model: as it is.
        analysis: of it.
        inputs, forward: what multiply-accumulates are counted on.
    """

    def __init__(self, model: nn.Module, analysis: Analysis, inputs: Any, forward: Forward | None) -> None:
        self.model, self.analysis = model, analysis
        self.inputs, self.forward = inputs, forward

    @functools.cached_property
    def _products(self) -> tuple[Product, ...]:
        return products_of(self.analysis)

    @functools.cached_property
    def _rest(self) -> int:
        """Multiply-accumulates of operators that no channel is known of."""
        macs = count_products(self.model, self.inputs, self.forward).with_weights
        return macs - multiply_accumulates(self._products, labels_gone(self.analysis, ()))

    def macs(self, removals: Sequence[Removal] = ()) -> int:
        """Multiply-accumulates of a forward of the inputs after units were removed."""
        return self._rest + multiply_accumulates(self._products, labels_gone(self.analysis, removals))

    def parameters(self, removals: Sequence[Removal] = ()) -> int:
        """Parameters after units were removed."""
        shapes = {name: list(parameter.shape) for name, parameter in named_parameters(self.model).items()}
        for (name, dimension), indices in gone_at(removals).items():
            if name in shapes:
                shapes[name][dimension] -= len(indices)
        return sum(math.prod(shape) for shape in shapes.values())

    def counted(self, kind: str, removals: Sequence[Removal] = ()) -> int:
        """Of the kind of cost ``macs`` or ``parameters``."""
        return self.macs(removals) if kind == "macs" else self.parameters(removals)


def smallest_share(fits: Callable[[float], bool], steps: int = STEPS, least: float = 0.0) -> float:
    """The smallest share from ``least`` to 1 that fits, or 1 if none does; what is larger than one that fits, fits."""
    if fits(least):
        return least
    low, high = least, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
