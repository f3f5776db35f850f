"""One update of masks: a criterion scores weights, a structure groups them, a scope decides how many go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paredown.framework.distributed.shards import sum_of_parts
from paredown.framework.errors import TargetError
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.apply import MaskForm, apply_masks_, mask_keeping, prune_at_, to_bool
from paredown.modifiers.pruning.masks.choice import chosen_units, marks_of, ranked, separated, unit_scores
from paredown.modifiers.pruning.masks.competitions import SHARED_OUT, Competition, Scope, competitions
from paredown.modifiers.pruning.masks.scope import outlier_shares
from paredown.modifiers.pruning.masks.state import Masks, MaskState
from paredown.modifiers.pruning.scoring.criterion import Criterion
from paredown.modifiers.pruning.scoring.prunable import Prunable
from paredown.modifiers.pruning.scoring.scores import gather, scores_of
from paredown.modifiers.pruning.scoring.units import Structure
from paredown.modifiers.pruning.selection.select import find_threshold

__all__ = ["MaskUpdate", "UnitScores", "held_units"]


@dataclass(frozen=True)
class MaskUpdate:
    """The three axes, and for whom.

    Attributes:
        training: the run as the modifier sees it for which masks are chosen.
        criterion, structure, scope: the axes.
        form: of the masks.
    """

    training: Training
    criterion: Criterion
    structure: Structure
    scope: Scope
    form: MaskForm

    def run(
        self, state: MaskState, prunables: Mapping[str, Prunable], share: float, finals: Mapping[str, float]
    ) -> Masks:
        """Zero ``share`` of all units in place and give the masks; ``finals`` is each weight's share at the end.

        Everything is chosen before the first weight is changed.
        """
        sizes = {name: self.structure.count(each.view.shape) for name, each in prunables.items()}
        plain = self.structure.free and self.scope not in ("lamp", "owl")
        if self.criterion.by_magnitude and plain:
            return self._by_magnitude(prunables, self._contests(state, prunables, sizes, share, finals))
        _refuse_nan(prunables)
        scores = UnitScores(self, state, prunables)
        self._spread_by_outliers(state, scores, share)
        contests = self._contests(state, prunables, sizes, share, finals)
        pruned: dict[str, Tensor] = {}
        for contest in separated(contests, sizes, self.structure):
            units = ranked({name: scores.of(name) for name in contest.members}, self.scope == "lamp")
            for name, marks in chosen_units(units, contest, self.structure).items():
                pruned[name] = marks_of(prunables[name], marks, self.structure)
        return self._zeroed(state, prunables, pruned)

    def _contests(
        self,
        state: MaskState,
        prunables: Mapping[str, Prunable],
        sizes: Mapping[str, int],
        share: float,
        finals: Mapping[str, float],
    ) -> list[Competition]:
        shared_out = prunables if self.scope in SHARED_OUT else {}
        held = {name: held_units(self.structure, each, state.masks)[0] for name, each in shared_out.items()}
        return competitions(self.scope, prunables, sizes, share, finals, state.deviations, held)

    def _spread_by_outliers(self, state: MaskState, scores: UnitScores, share: float) -> None:
        if self.scope == "owl" and not state.deviations:
            units = {name: scores.of(name).clamp(min=0) for name in scores.prunables}
            shares = outlier_shares(units, share)
            state.deviations.update({name: each - share for name, each in shares.items()})

    def _by_magnitude(self, prunables: Mapping[str, Prunable], contests: Sequence[Competition]) -> Masks:
        """The same without a tensor of scores, in one pass over the weights."""
        groups = [[prunables[name].weight for name in each.members] for each in contests]
        thresholds = [
            find_threshold(group, each.count, names=each.members) for group, each in zip(groups, contests, strict=True)
        ]
        masks = Masks()
        for group, threshold in zip(groups, thresholds, strict=True):
            masks.update(zip(group, prune_at_(group, threshold, form=self.form), strict=True))
        return masks

    @torch.no_grad()
    def _zeroed(self, state: MaskState, prunables: Mapping[str, Prunable], pruned: Mapping[str, Tensor]) -> Masks:
        weights = {name: prunables[name].weight for name in pruned}
        self.criterion.compensate(weights, pruned, state.watched)
        masks = Masks()
        for name, weight in weights.items():
            if self.criterion.regrows:
                _bring_back_(weight, state)
            masks[weight] = mask_keeping(~pruned[name], weight, self.form)
        apply_masks_(list(masks), list(masks.values()))
        return masks


def held_units(structure: Structure, one: Prunable, masks: Masks) -> tuple[int, int]:
    """How many of a weight's units are pruned, and how many there are."""
    total = structure.count(one.view.shape)
    if one.weight not in masks:
        return 0, total
    kept = structure.view(to_bool(masks[one.weight]), one.module)
    whole = kept if structure.single else structure.units(kept.float())
    held = torch.tensor([int((whole == 0).sum())], device=kept.device)
    return int(sum_of_parts(held, one.weight)), total


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
