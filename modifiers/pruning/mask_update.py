"""One update of masks: a criterion weighs, a structure groups, a scope says how many, and the least go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.modifier import Modifier
from paredown.framework.training import Training
from paredown.modifiers.pruning.competitions import Scope, competitions
from paredown.modifiers.pruning.criterion import Criterion
from paredown.modifiers.pruning.mask_choice import chosen_units, marks_of, ranked, unit_scores
from paredown.modifiers.pruning.mask_state import Masks, MaskState
from paredown.modifiers.pruning.masks import MaskForm, apply_masks_, mask_keeping, prune_at_, to_bool
from paredown.modifiers.pruning.prunable import Prunable
from paredown.modifiers.pruning.scope import outlier_shares
from paredown.modifiers.pruning.selection import find_threshold
from paredown.modifiers.pruning.structure import Structure

__all__ = ["MaskUpdate"]


@dataclass(frozen=True)
class MaskUpdate:
    """The three axes, and for whom.

    Attributes:
        training, modifier: for whom masks are chosen.
        criterion, structure, scope: the axes.
        form: of the masks.
    """

    training: Training
    modifier: Modifier
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
        plain = self.structure.free and self.scope not in ("lamp", "owl")
        if self.criterion.by_magnitude and plain:
            return self._by_magnitude(state, prunables, share, finals)
        units = self._unit_scores(state, prunables)
        if self.scope == "owl" and not state.deviations:
            spread = outlier_shares({name: each.clamp(min=0) for name, each in units.items()}, share)
            state.deviations.update({name: each - share for name, each in spread.items()})
        sizes = {name: each.numel() for name, each in units.items()}
        held = {
            name: int((each <= (0 if self.criterion.by_magnitude else -torch.inf)).sum())
            for name, each in units.items()
        }
        contests = competitions(self.scope, prunables, sizes, share, finals, state.deviations, held)
        marks = chosen_units(ranked(units, self.structure, self.scope == "lamp"), contests, self.structure)
        pruned = {name: marks_of(prunables[name], marks[name], self.structure) for name in prunables}
        return self._zeroed(state, prunables, pruned)

    def _by_magnitude(
        self, state: MaskState, prunables: Mapping[str, Prunable], share: float, finals: Mapping[str, float]
    ) -> Masks:
        """The same without a tensor of scores, in one pass over the weights."""
        sizes = {name: each.weight.numel() for name, each in prunables.items()}
        weights = {name: each.weight for name, each in prunables.items() if each.weight in state.masks}
        held = {name: int((~to_bool(state.masks[weight])).sum()) for name, weight in weights.items()}
        contests = competitions(self.scope, prunables, sizes, share, finals, {}, held)
        groups = [[prunables[name].weight for name in each.members] for each in contests]
        thresholds = [
            find_threshold(group, each.count, names=each.members) for group, each in zip(groups, contests, strict=True)
        ]
        masks = Masks()
        for group, threshold in zip(groups, thresholds, strict=True):
            masks.update(zip(group, prune_at_(group, threshold, form=self.form), strict=True))
        return masks

    def _unit_scores(self, state: MaskState, prunables: Mapping[str, Prunable]) -> dict[str, Tensor]:
        weights = {name: each.weight for name, each in prunables.items()}
        self.criterion.prepare(self.training, self.modifier, weights, state.watched)
        groups = [weights] if self.criterion.jointly else [{name: weight} for name, weight in weights.items()]
        units: dict[str, Tensor] = {}
        for group in groups:
            scores = self.criterion.scores(self.training, self.modifier, group, state.watched)
            for name, weight in group.items():
                if name not in scores:
                    raise TargetError(f"{self.modifier.name} cannot weigh {name}: add its layer to ignore")
                held = self._stays_pruned(state, weight)
                units[name] = self.criterion.combined(
                    unit_scores(prunables[name], scores.pop(name), self.structure, held)
                )
        return units

    def _stays_pruned(self, state: MaskState, weight: nn.Parameter) -> Tensor | None:
        """What scores alone would not put first; a magnitude of 0 comes first anyway."""
        if self.criterion.regrows or self.criterion.by_magnitude or weight not in state.masks:
            return None
        return ~to_bool(state.masks[weight])

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


def _bring_back_(weight: nn.Parameter, state: MaskState) -> None:
    """Give a weight the values that it had when it was pruned, and remember what it is now."""
    values = state.watched.values
    whole = weight.detach().clone()
    if weight in state.masks and weight in values:
        whole = torch.where(to_bool(state.masks[weight]), whole, values[weight])
    values[weight] = whole
    weight.copy_(whole)
