"""A layer's weight: checks that every family makes before it changes it, and where its output channels lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.model.kinds import TRANSPOSED, Conv1D
from paredown.framework.model.targets import named_modules

__all__ = ["COMPUTED", "ROWS_FIRST", "WeightLayout", "refuse_not_finite", "tied_to", "weight_rows"]

#: of a layer whose weight is no parameter of its own
COMPUTED = "its weight is computed, not stored (a parametrization such as weight_norm or LoRA)"


@dataclass(frozen=True)
class WeightLayout:
    """How a layer keeps the rows of its weight, one for each output channel: (outputs, inputs / groups, ...).

    Attributes:
        inputs_first: the first two dimensions change places: transposed convolutions, transformers' Conv1D.
        groups: of a transposed convolution, whose weight is (inputs, outputs / groups, ...): group by group.
    """

    inputs_first: bool = False
    groups: int = 1

    @classmethod
    def of(cls, module: nn.Module) -> WeightLayout:
        """That of a layer's weight."""
        layer: Any = module
        if isinstance(module, TRANSPOSED):
            return cls(True, layer.groups)
        return cls(isinstance(module, Conv1D))

    def rows(self, tensor: Tensor) -> Tensor:
        """Anything of the weight's shape, output channels first; a view, but for groups."""
        if not self.inputs_first:
            return tensor
        if self.groups == 1:
            return tensor.transpose(0, 1)
        first, *others = tensor.shape
        return tensor.reshape(self.groups, first // self.groups, *others).transpose(1, 2).flatten(0, 1)

    def kept(self, rows: Tensor) -> Tensor:
        """What `rows` gave in the shape in which the layer keeps it: the same exchange again."""
        return self.rows(rows)


#: of most layers
ROWS_FIRST = WeightLayout()


def weight_rows(module: nn.Module) -> Tensor:
    """A layer's weight without a gradient, output channels first."""
    return WeightLayout.of(module).rows(module.get_parameter("weight").detach())


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
