"""The base of the modifiers that move factors between layers before weights are put on a grid."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.modifier.base import Modifier, TargetedModifier
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer
from paredown.modifiers.quantization.quantization_modifier import QuantizationModifier

__all__ = ["FactorMovement", "objection_to_move", "refuse_on_grid"]

ON_GRID = "the weights of {} are on a grid by then, and a factor would move them off it: put it before"


class FactorMovement(TargetedModifier):
    """Base of the modifiers that move a factor per channel from one layer into the next, once, at ``start``."""

    claims: ClassVar = frozenset({"scale between layers"})

    @property
    def acts_once(self) -> bool:
        return True

    def check(self, training: Training) -> None:
        super().check(training)
        refuse_on_grid(training)

    def objection(self, training: Training, earlier: Modifier, before: Training) -> str | None:
        return objection_to_move(training, earlier, before)


def objection_to_move(training: Training, earlier: Modifier, before: Training) -> str | None:
    """Why factors cannot move any more: an earlier modifier has put one of the weights on a grid; None: they can."""
    if not isinstance(earlier, QuantizationModifier):
        return None
    quantized = {id(module): name for name, (module, schemes) in earlier.fixed_layers(before).items()}
    name = next((quantized[id(each)] for each in training.targets().values() if id(each) in quantized), None)
    if name is None:
        return None
    return ON_GRID.format(name)


def refuse_on_grid(training: Training) -> None:
    """Raise TargetError, naming the first, where targets have their weights on a grid and nothing trains them."""
    on_grid = [name for name, module in training.targets().items() if _is_on_grid(module)]
    if on_grid and training.clock is None:
        raise TargetError(f"{training.label}: {ON_GRID.format(on_grid[0])}; nothing was changed")


def _is_on_grid(module: nn.Module) -> bool:
    link = weight_quantizer(module)
    return link is not None and link.fixed
