"""One update of masks: a criterion scores weights, a structure groups them, a scope decides how many go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paredown.framework.distributed.shards import sums_of_parts
from paredown.framework.errors import TargetError
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.apply import MaskForm, mask_keeping, prune_at_, to_bool
from paredown.modifiers.pruning.masks.choice import chosen_units, marks_of, ranked, separated, unit_scores
from paredown.modifiers.pruning.masks.competitions import Competition, Scope, Sharing
from paredown.modifiers.pruning.masks.scope import outlier_shares
from paredown.modifiers.pruning.masks.state import Masks, MaskState
from paredown.modifiers.pruning.scoring.criterion import Criterion
from paredown.modifiers.pruning.scoring.prunable import Prunable
from paredown.modifiers.pruning.scoring.scores import gather, scores_of
from paredown.modifiers.pruning.scoring.units import Structure
from paredown.modifiers.pruning.selection.limits import find_thresholds, selected
from paredown.modifiers.pruning.selection.select import Threshold

__all__ = ["SCORED", "MaskUpdate", "UnitScores", "held_units"]

#: scopes where scores decide how much of each weight goes
SCORED = ("global", "lamp", "owl")


@dataclass(frozen=True)
class MaskUpdate:
    """The three axes, and for whom.

    Attributes:
        training: the run as the modifier sees it for which masks are chosen.
        criterion, structure, scope: the axes.
        form: of the masks.
        floor: the least share of units that each weight keeps; None: the default.
    """

    training: Training
    criterion: Criterion
    structure: Structure
    scope: Scope
    form: MaskForm
    floor: float | None = None

    def run(
        self, state: MaskState, prunables: Mapping[str, Prunable], share: float, finals: Mapping[str, float]
    ) -> Masks:
        """Zero ``share`` of all units in place and give the masks; ``finals`` is each weight's share at the end.

        Everything is chosen before the first weight is changed.
        """
        if self._needs_no_scores:
            contests = self.contests(state, prunables, share, finals)
            return self._by_magnitude(prunables, contests)
        _refuse_nan(prunables)
        return self._zeroed(state, prunables, dict(self._chosen(state, prunables, share, finals)))

    def foreseen(
        self, state: MaskState, prunables: Mapping[str, Prunable], share: float, finals: Mapping[str, float]
    ) -> dict[str, float]:
        """The share of each weight that `run` would make zero; nothing is changed."""
        if self.scope in SCORED:
            if not self._needs_no_scores:
                chosen = self._chosen(state, prunables, share, finals)
                return {name: float(marks.double().mean()) for name, marks in chosen}
            thresholds = self._thresholds(prunables, self.contests(state, prunables, share, finals))
            counts = [(members, selected(_weights(prunables, members), each)) for members, each in thresholds]
        else:
            counts = [(each.members, [each.count]) for each in self.contests(state, prunables, share, finals)]
        units = self.sharing(prunables, finals).sizes
        pairs = [pair for members, numbers in counts for pair in zip(members, numbers, strict=True)]
        return {name: number / units[name] for name, number in pairs}

    def sharing(self, prunables: Mapping[str, Prunable], finals: Mapping[str, float]) -> Sharing:
        """How zeros are shared out over the weights."""
        sizes = {name: self.structure.count(each.view.shape) for name, each in prunables.items()}
        return Sharing(self.scope, prunables, sizes, finals, self.floor)

    @property
    def _needs_no_scores(self) -> bool:
        return self.criterion.by_magnitude and self.structure.free and self.scope not in ("lamp", "owl")

    def _chosen(
        self, state: MaskState, prunables: Mapping[str, Prunable], share: float, finals: Mapping[str, float]
    ) -> Iterator[tuple[str, Tensor]]:
        """What goes of each weight, bool."""
        scores = UnitScores(self, state, prunables)
        self._spread_by_outliers(state, scores, share)
        sizes = self.sharing(prunables, finals).sizes
        for contest in separated(self.contests(state, prunables, share, finals), sizes, self.structure):
            units = ranked({name: scores.of(name) for name in contest.members}, self.scope == "lamp")
            for name, marks in chosen_units(units, contest, self.structure).items():
                yield name, marks_of(prunables[name], marks, self.structure)

    def contests(
        self, state: MaskState, prunables: Mapping[str, Prunable], share: float, finals: Mapping[str, float]
    ) -> list[Competition]:
        """Who competes for how many units.

        Raises:
            TargetError: so many cannot go, since each layer keeps its least.
        """
        held = held_units(self.structure, prunables, state.masks)
        try:
            return self.sharing(prunables, finals).competitions(share, held, state.deviations)
        except TargetError as error:
            raise TargetError(f"{self.training.name}: {error}") from None

    def _spread_by_outliers(self, state: MaskState, scores: UnitScores, share: float) -> None:
        if self.scope == "owl" and not state.deviations:
            units = {name: scores.of(name).clamp(min=0) for name in scores.prunables}
            shares = outlier_shares(units, share)
            state.deviations.update({name: each - share for name, each in shares.items()})

    def _by_magnitude(self, prunables: Mapping[str, Prunable], contests: Sequence[Competition]) -> Masks:
        """The same without a tensor of scores, in one pass over the weights."""
        masks = Masks()
        for members, threshold in self._thresholds(prunables, contests):
            group = _weights(prunables, members)
            written = {id(weight) for weight in self.training.just_stepped_among(group)}
            zeroed = [weight if id(weight) in written else weight.detach().clone() for weight in group]
            masks.update(zip(group, prune_at_(zeroed, threshold, form=self.form), strict=True))
        return masks

    def _thresholds(
        self, prunables: Mapping[str, Prunable], contests: Sequence[Competition]
    ) -> list[tuple[tuple[str, ...], Threshold]]:
        """By magnitude: weights with the threshold that they share."""
        thresholds = []
        for contest in contests:
            group = _weights(prunables, contest.members)
            found = find_thresholds(group, contest.count, contest.limits, names=contest.members)
            thresholds += [(tuple(contest.members[place] for place in places), each) for places, each in found]
        return thresholds

    @torch.no_grad()
    def _zeroed(self, state: MaskState, prunables: Mapping[str, Prunable], pruned: Mapping[str, Tensor]) -> Masks:
        weights = {name: prunables[name].weight for name in pruned}
        self.criterion.compensate(weights, pruned, state.watched)
        masks = Masks()
        for name, weight in weights.items():
            if self.criterion.regrows:
                _bring_back_(weight, state)
            masks[weight] = mask_keeping(~pruned[name], weight, self.form)
        masks.apply_(self.training.just_stepped_among(masks))
        return masks


def held_units(structure: Structure, prunables: Mapping[str, Prunable], masks: Masks) -> dict[str, int]:
    """How many units of each weight are pruned."""
    own = {name: _held(structure, one, masks[one.weight]) for name, one in prunables.items() if one.weight in masks}
    sums = sums_of_parts(list(own.values()), [prunables[name].weight for name in own])
    return dict.fromkeys(prunables, 0) | dict(zip(own, sums, strict=True))


def _held(structure: Structure, one: Prunable, mask: Tensor) -> int:
    if structure.single:
        return mask.numel() - int(mask.count_nonzero())
    units = structure.units(structure.view(to_bool(mask), one.module).float())
    return int((units == 0).sum())


def _weights(prunables: Mapping[str, Prunable], names: Sequence[str]) -> list[nn.Parameter]:
    return [prunables[name].weight for name in names]


def _refuse_nan(prunables: Mapping[str, Prunable]) -> None:
    for name, one in prunables.items():
        if bool(one.weight.isnan().any()):
            raise TargetError(f"{name} contains NaN: nothing can be ranked by it; the model was left as it was")


class UnitScores:
    """Unit scores by weight: of all at once where the criterion weighs them together, else one by one."""

    def __init__(self, update: MaskUpdate, state: MaskState, prunables: Mapping[str, Prunable]) -> None:
        self.update, self.state, self.prunables = update, state, prunables
        self.weights = {name: each.weight for name, each in prunables.items()}
        self._prepare()
        self.joint = self._weighed(self.weights) if update.criterion.needs in ("model", "data") else {}

    def of(self, name: str) -> Tensor:
        """What the weight's units are compared by.

        Raises:
            TargetError: the criterion has no opinion on the weight, or it is NaN.
        """
        update = self.update
        found = self.joint or self._weighed({name: self.weights[name]})
        if name not in found:
            raise TargetError(f"{update.training.name} cannot weigh {name}: add its layer to ignore")
        units = unit_scores(self.prunables[name], found[name], update.structure, self._stays_pruned(name))
        return update.criterion.combined(units)

    def _prepare(self) -> None:
        update = self.update
        gather(update.criterion, update.training, self.weights, self.state.watched)

    def _weighed(self, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        update = self.update
        return scores_of(update.criterion, update.training, weights, self.state.watched)

    def _stays_pruned(self, name: str) -> Tensor | None:
        """What scores alone would not put first; a magnitude of 0 comes first anyway."""
        criterion, weight = self.update.criterion, self.weights[name]
        if criterion.regrows or criterion.by_magnitude or weight not in self.state.masks:
            return None
        return ~to_bool(self.state.masks[weight])


def _bring_back_(weight: nn.Parameter, state: MaskState) -> None:
    """Give a weight the values that it had when it was pruned, and remember what it is now."""
    values = state.watched.values
    whole = weight.detach().clone()
    if weight in state.masks and weight in values:
        whole = torch.where(to_bool(state.masks[weight]), whole, values[weight])
    values[weight] = whole
    weight.copy_(whole)
