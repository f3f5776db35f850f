"""The base of the modifiers that remove units of channels: channels and attention heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.model.targets import named_parameters
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.removal.base import StructuredPruning
from paredown.modifiers.pruning.removal.channel_budget import cost_of, smallest_share, weight_uses
from paredown.modifiers.pruning.removal.channel_choice import Progress, choose, worth
from paredown.modifiers.pruning.removal.channel_view import ChannelView, look, parameters_after
from paredown.modifiers.pruning.removal.channels import ChannelGroup, Cut, Removal, Verified, commit
from paredown.modifiers.pruning.scoring.criterion import Criterion, CriterionName, Watched, criterion_named
from paredown.modifiers.pruning.scoring.scores import scores_of, watch

__all__ = ["ChannelRemoval", "RemovalState"]

#: how often what was refused is made up for elsewhere
ROUNDS = 4
LATENCY_STEPS = 6
NOTHING = Cut((), {}, ())


@dataclass
class RemovalState:
    """How far physical pruning has come.

    Attributes:
        groups: by key, the units before anything was removed, those that are left, and the channels of one.
        weights: names of the parameters whose scores count.
        costs: of the model before anything was removed, by the budget's kinds.
        share: of the channels, reached.
        watched: what the criterion gathered.
    """

    groups: dict[str, list[int]] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)
    share: float = 0.0
    watched: Watched = field(default_factory=Watched)


class ChannelRemoval(StructuredPruning):
    """Base: units of low worth leave the model; a subclass picks the groups of units."""

    state_type: ClassVar = RemovalState

    criterion: CriterionName = "magnitude"
    """What weights are worth: the name of a mask modifier without ``_pruning``."""
    round_to: Annotated[int, Strict(), Field(ge=1)] = 8
    """What stays of a layer is a multiple of so many channels."""

    # -- what a subclass picks --------------------------------------------------------------------------------------

    def view(self, training: Training) -> ChannelView:
        """The groups that are its business, and why others are not."""
        return look(training, self.ignore)

    # -- what the framework asks -----------------------------------------------------------------------------------

    @property
    def calibrates(self) -> bool:
        return self._criterion.needs == "data" or (self._criterion.needs == "gradients" and self.acts_once)

    @property
    def _criterion(self) -> Criterion:
        return criterion_named(self.criterion)

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        if not training.data.has_example or self._criterion.needs in ("data", "gradients"):
            return []
        view = self.view(training)
        state = self._begun(training, RemovalState(), view)
        made = self._solved(training, state, view, self.aim(1.0)) if view.groups else Verified(NOTHING)
        lines = [Foreseen(name, reason, refused=True) for name, reason in {**view.reasons, **made.refused}.items()]
        remark = view.with_settings(made.cut)[1]
        lines += [Foreseen("config", remark)] if remark else []
        gone = {name for removal in made.cut.removals for name in removal.group.layers}
        after = parameters_after(training.model, made.cut)
        lines += [
            Foreseen(name, _told(made.cut, name, name in gone), parameters=count) for name, count in after.items()
        ]
        return lines

    def on_start(self, training: Training) -> RemovalState:
        state = RemovalState()
        return state if self.acts_once else self._begun(training, state, self.view(training))

    def on_update(self, training: Training, state: RemovalState) -> None:
        aim = self.aim(training.progress)
        if self.aims_at_nothing(aim) or (self.budget is None and aim <= state.share):
            return
        view = self.view(training)
        if not state.groups:
            self._begun(training, state, view)
        made = self._solved(training, state, view, aim)
        cut, remark = view.with_settings(made.cut)
        commit(training.surgery, cut)
        self._record(training, view, made, remark)
        state.share = max(state.share, aim if self.budget is None else 0.0)
        self._criterion.renew(self._weights(training, state), state.watched)
        for removal in cut.removals:
            state.groups[removal.group.key][1] -= len(removal.units)
        training.record("update", sparsity=_gone(state))

    def on_step(self, training: Training, state: RemovalState) -> None:
        if self._criterion.needs == "gradients" and not training.ended:
            watch(self._criterion, training, self._weights(training, state), state.watched)

    def on_end(self, training: Training, state: RemovalState) -> None:
        state.watched = Watched()

    def unreached(self, training: Training, state: RemovalState | None) -> str | None:
        if training.ended:
            return None
        return self.missed(0.0 if state is None else state.share)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _begun(self, training: Training, state: RemovalState, view: ChannelView) -> RemovalState:
        if not view.groups:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(view.reasons.items())[:3])
            raise TargetError(f"{self.name}: nothing can be removed ({reasons or 'no target produces channels'})")
        parameters = named_parameters(training.model)
        state.groups = {group.key: [group.units, group.units, group.width] for group in view.groups}
        state.weights = [name for name in view.tensors if name in parameters]
        state.watched = self._criterion.start(training, self._weights(training, state))
        if self.budget is not None:
            state.costs = {kind: self._cost(training, view, NOTHING, kind) for kind in self.budget.shares}
        return state

    def _weights(self, training: Training, state: RemovalState) -> dict[str, nn.Parameter]:
        parameters = named_parameters(training.model)
        return {name: parameters[name] for name in state.weights if name in parameters}

    def _solved(self, training: Training, state: RemovalState, view: ChannelView, aim: float) -> Verified:
        """What is cut; what turns out not to be possible is made up for by others."""
        criterion = self._criterion
        scores = scores_of(criterion, training, self._weights(training, state), state.watched)
        groups = [group for group in view.groups if group.key in state.groups]
        found = {group.name: worth(group, scores, criterion.outputs_only, criterion.combined) for group in groups}
        worths = {name: each for name, each in found.items() if each is not None}
        refused = {name: f"{self.criterion} has no scores for its channels" for name in found if name not in worths}
        if criterion.relative and self.scope == "global":
            worths = {name: each / each.mean().clamp_min(1e-300) for name, each in worths.items()}
        for _ in range(ROUNDS):
            usable = [group for group in groups if group.name not in refused]
            if not usable:
                break
            out = {group.key for group in groups if group.name in refused}
            progress = {key: each for key, each in state.groups.items() if key not in out}
            share = self._share(training, state, view, usable, worths, progress, aim)
            made = view.verified(self._chosen(usable, worths, progress, share))
            refused.update(made.refused)
            if not made.refused:
                return Verified(made.cut, refused)
        return Verified(made.cut if usable else NOTHING, refused)

    def _chosen(
        self,
        groups: Sequence[ChannelGroup],
        worths: Mapping[str, Tensor],
        progress: Mapping[str, Progress],
        share: float,
    ) -> list[Removal]:
        return choose(groups, worths, progress, share, self.scope, self.round_to)

    def _share(
        self,
        training: Training,
        state: RemovalState,
        view: ChannelView,
        groups: Sequence[ChannelGroup],
        worths: Mapping[str, Tensor],
        progress: Mapping[str, Progress],
        aim: float,
    ) -> float:
        """The share of channels that meets the aim."""
        if self.budget is None:
            return aim
        allowed = {kind: share * state.costs[kind] for kind, share in self.allowed(aim).items()}
        latency = allowed.pop("latency", None)
        uses = {kind: weight_uses(view.analysis, kind) for kind in allowed}

        def counts_fit(share: float) -> bool:
            chosen = self._chosen(groups, worths, progress, share)
            return all(cost_of(training.model, uses[kind], chosen) <= most for kind, most in allowed.items())

        def time_fits(share: float) -> bool:
            cut = view.verified(self._chosen(groups, worths, progress, share)).cut
            return latency is None or view.latency(training, cut) <= latency

        counted = smallest_share(counts_fit) if allowed else 0.0
        return counted if latency is None else max(counted, smallest_share(time_fits, LATENCY_STEPS, counted))

    def _cost(self, training: Training, view: ChannelView, cut: Cut, kind: str) -> float:
        if kind == "latency":
            return view.latency(training, cut)
        return float(cost_of(training.model, weight_uses(view.analysis, kind), cut.removals))

    def _record(self, training: Training, view: ChannelView, made: Verified, remark: str | None) -> None:
        if remark is not None:
            training.record("configuration", remark=remark)
        training.refuse({**view.reasons, **made.refused})
        for removal in made.cut.removals:
            stays = removal.group.units - len(removal.units)
            training.record("cut", layer=removal.group.name, units=stays, of=removal.group.units)


def _told(cut: Cut, name: str, produces: bool) -> str:
    for removal in cut.removals:
        if name in removal.group.layers:
            stays = removal.group.units - len(removal.units)
            unit = "channels" if removal.group.width == 1 else f"units of {removal.group.width} channels"
            return f"{removal.group.units} -> {stays} {unit}"
    return "shrinks along"


def _gone(state: RemovalState) -> float:
    """The share of the original channels that is gone."""
    total = sum(original * width for original, _, width in state.groups.values())
    return 1 - sum(left * width for _, left, width in state.groups.values()) / max(total, 1)
