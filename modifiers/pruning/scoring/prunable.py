"""A weight that can be pruned in place, with the layer that owns it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from paredown.modifiers.pruning.scoring.units import output_first

__all__ = ["Prunable", "layer_of"]


@dataclass(frozen=True)
class Prunable:
    """A weight by its name, with its layer."""

    name: str
    weight: nn.Parameter
    module: nn.Module

    @property
    def layer(self) -> str:
        """The layer's name."""
        return layer_of(self.name)

    @property
    def view(self) -> Tensor:
        """The weight, output first."""
        return output_first(self.weight.detach(), self.module)


def layer_of(name: str) -> str:
    """The name of the module that owns a parameter."""
    return name.rpartition(".")[0]
