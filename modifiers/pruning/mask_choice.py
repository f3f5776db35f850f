"""Which weights go: scores, a structure and a scope put together, exactly by count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paredown.framework.curves import share_of
from paredown.framework.errors import TargetError
from paredown.modifiers.pruning.scope import Competition, lamp_scores
from paredown.modifiers.pruning.selection import smallest
from paredown.modifiers.pruning.structure import Pattern, Structure, output_first

__all__ = ["Prunable", "chosen_units", "marks_of", "unit_scores"]


@dataclass(frozen=True)
class Prunable:
    """A weight with the layer that owns it."""

    name: str
    weight: nn.Parameter
    module: nn.Module

    @property
    def view(self) -> Tensor:
        """The weight, output first."""
        return output_first(self.weight.detach(), self.module)


def unit_scores(prunable: Prunable, scores: Tensor, structure: Structure, pruned: Tensor | None = None) -> Tensor:
    """What a weight's units are compared by; what is pruned already comes first.

    Args:
        prunable: the weight.
        scores: of the weight's shape.
        structure: what a unit is.
        pruned: bool, True where a weight is zero and stays so; None: nowhere.

    Raises:
        TargetError: a score is NaN.
    """
    if bool(scores.isnan().any()):
        raise TargetError(f"{prunable.name} contains NaN: nothing can be ranked by it; the model was left as it was")
    scores = output_first(scores, prunable.module)
    held = None if pruned is None else output_first(pruned, prunable.module)
    if isinstance(structure, Pattern):
        return structure.units(scores if held is None else scores.masked_fill(held, -torch.inf))
    units = structure.units(scores)
    return units if held is None else units.masked_fill(structure.units(held.float()) == 1, -torch.inf)


def ranked(units: Mapping[str, Tensor], structure: Structure, lamp: bool) -> dict[str, Tensor]:
    """The scores as they are compared across layers: as they are, or by LAMP within each layer first."""
    if not lamp or isinstance(structure, Pattern):
        return dict(units)
    return {name: lamp_scores(each.clamp(min=0)) - each.isneginf().double() for name, each in units.items()}


def chosen_units(units: Mapping[str, Tensor], competitions: Sequence[Competition]) -> dict[str, Tensor]:
    """Bool by weight, True for the units that go: in each competition exactly its count of smallest scores; ties by
    weight, then index, lowest first."""
    marks: dict[str, Tensor] = {}
    for competition in competitions:
        scores = [units[name] for name in competition.members]
        found = smallest(scores, competition.count, order="value", names=competition.members)
        marks.update(zip(competition.members, found, strict=True))
    return marks


def marks_of(prunable: Prunable, marks: Tensor, structure: Structure) -> Tensor:
    """Marks of units as marks of weights, in the shape of the weight."""
    return output_first(structure.spread(marks, prunable.view.shape), prunable.module)


def removable(units: Mapping[str, Tensor], structure: Structure) -> dict[str, int]:
    """How many units of each weight can go: all, or what a pattern leaves free."""
    if not isinstance(structure, Pattern):
        return {name: each.numel() for name, each in units.items()}
    return {
        name: each.numel() // structure.of * (structure.of - structure.kept) for name, each in units.items()
    }


def equal_competitions(sizes: Mapping[str, int], share: float, together: bool) -> list[Competition]:
    """One competition of all, or one a weight, for the same share."""
    if together:
        return [Competition(tuple(sizes), share_of(share, sum(sizes.values())))]
    return [Competition((name,), share_of(share, size)) for name, size in sizes.items()]
