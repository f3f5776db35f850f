"""Which weights go: scores, a structure and competitions put together, exactly by count. Pure functions on tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from paredown.framework.errors import TargetError
from paredown.modifiers.pruning.masks.competitions import Competition
from paredown.modifiers.pruning.masks.scope import lamp_scores
from paredown.modifiers.pruning.scoring.prunable import Prunable
from paredown.modifiers.pruning.scoring.units import Pattern, Structure
from paredown.modifiers.pruning.selection.limits import smallest_within

__all__ = ["chosen_units", "marks_of", "ranked", "separated", "unit_scores"]


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


def ranked(units: Mapping[str, Tensor], lamp: bool) -> dict[str, Tensor]:
    """The scores as they are compared across layers: as they are, or by LAMP within each layer first."""
    if not lamp:
        return dict(units)
    return {name: lamp_scores(each.clamp(min=0)) - each.isneginf().double() for name, each in units.items()}


def separated(contests: Sequence[Competition], sizes: Mapping[str, int], structure: Structure) -> Iterator[Competition]:
    """The same competitions; one in which all goes that a pattern leaves free is one for each weight."""
    for contest in contests:
        room = {name: structure.room(sizes[name]) for name in contest.members} if isinstance(structure, Pattern) else {}
        if room and contest.count == sum(room.values()):
            yield from (Competition((name,), count, (count,)) for name, count in room.items())
        else:
            yield contest


def chosen_units(units: Mapping[str, Tensor], contest: Competition, structure: Structure) -> dict[str, Tensor]:
    """Bool by weight, True for the units that go: exactly the competition's count of smallest scores within its limits;
    ties by weight, then index, lowest first. Where all goes that a pattern leaves free, nothing is ranked."""
    scores = [units[name] for name in contest.members]
    if isinstance(structure, Pattern) and contest.count == sum(structure.room(each.numel()) for each in scores):
        return {name: each < torch.inf for name, each in units.items()}
    found = smallest_within(scores, contest.count, contest.limits, order="value", names=contest.members)
    return dict(zip(contest.members, found, strict=True))


def marks_of(prunable: Prunable, marks: Tensor, structure: Structure) -> Tensor:
    """Marks of units as marks of weights, in the shape of the weight."""
    return structure.view(structure.spread(marks, prunable.view.shape), prunable.module)
