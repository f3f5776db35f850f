"""Which weights go: scores, a structure and competitions put together, exactly by count. Pure functions on tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from paredown.framework.errors import TargetError
from paredown.modifiers.pruning.competitions import Competition
from paredown.modifiers.pruning.prunable import Prunable
from paredown.modifiers.pruning.scope import lamp_scores
from paredown.modifiers.pruning.selection import smallest
from paredown.modifiers.pruning.structure import Pattern, Structure

__all__ = ["chosen_units", "marks_of", "ranked", "unit_scores"]


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
    scores = structure.view(scores, prunable.module)
    held = None if pruned is None else structure.view(pruned, prunable.module)
    if isinstance(structure, Pattern):
        return structure.units(scores if held is None else scores.masked_fill(held, -torch.inf))
    units = structure.units(scores)
    return units if held is None else units.masked_fill(structure.units(held.float()) == 1, -torch.inf)


def ranked(units: Mapping[str, Tensor], structure: Structure, lamp: bool) -> dict[str, Tensor]:
    """The scores as they are compared across layers: as they are, or by LAMP within each layer first."""
    if not lamp or isinstance(structure, Pattern):
        return dict(units)
    return {name: lamp_scores(each.clamp(min=0)) - each.isneginf().double() for name, each in units.items()}


def chosen_units(
    units: Mapping[str, Tensor], contests: Sequence[Competition], structure: Structure
) -> dict[str, Tensor]:
    """Bool by weight, True for the units that go: in each competition exactly its count of smallest scores; ties by
    weight, then index, lowest first. Where all that a pattern leaves free goes, nothing is ranked."""
    marks: dict[str, Tensor] = {}
    for contest in contests:
        scores = [units[name] for name in contest.members]
        if isinstance(structure, Pattern) and contest.count == sum(map(structure.room, scores)):
            marks.update({name: units[name] < torch.inf for name in contest.members})
            continue
        found = smallest(scores, contest.count, order="value", names=contest.members)
        marks.update(zip(contest.members, found, strict=True))
    return marks


def marks_of(prunable: Prunable, marks: Tensor, structure: Structure) -> Tensor:
    """Marks of units as marks of weights, in the shape of the weight."""
    return structure.view(structure.spread(marks, prunable.view.shape), prunable.module)
