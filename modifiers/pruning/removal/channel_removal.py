"""The base of the modifiers that remove units of channels: channels and attention heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.measure.counts import measure_model
from paredown.framework.model.targets import named_parameters
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.fields import Share
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.removal.base import StructuredPruning
from paredown.modifiers.pruning.removal.channel_budget import smallest_share
from paredown.modifiers.pruning.removal.channel_choice import choose, step_of, worth
from paredown.modifiers.pruning.removal.channel_view import ChannelView, look, parameters_after
from paredown.modifiers.pruning.removal.channels import ChannelGroup, Cut, Removal, Verified, commit
from paredown.modifiers.pruning.removal.dead_channels import all_dead
from paredown.modifiers.pruning.scoring.criterion import Criterion, CriterionName, Watched, criterion_named
from paredown.modifiers.pruning.scoring.scores import scores_of, watch

__all__ = ["ChannelRemoval", "RemovalState"]

#: how often what was refused is made up for elsewhere
ROUNDS = 4
LATENCY_STEPS = 6
NOTHING = Cut((), {}, ())
#: the worth of what is dead
LEAST = torch.finfo(torch.float64).min


@dataclass
class RemovalState:
    """How far physical pruning has come.

    Attributes:
        groups: by key, the units before anything was removed, those that are left, and the channels of one.
        weights: names of the parameters whose scores count.
        costs: of the model before anything was removed, by the budget's kinds.
        share: of the channels, aimed at so far.
        reached: of the costs what is left, as shares.
        refused: groups that turned out to be needed, with the reason.
        watched: what the criterion gathered.
    """

    groups: dict[str, list[int]] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)
    share: float = 0.0
    reached: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    watched: Watched = field(default_factory=Watched)


class ChannelRemoval(StructuredPruning):
    """Base: units of low worth leave the model; a subclass picks the groups of units."""

    state_type: ClassVar = RemovalState
    removes: ClassVar = True

    final_sparsity: Share | Literal["dead"] | None = Field(None, validate_default=True)
    """Share of the channels or heads that is removed from the end of the window on; ``dead``: those that contribute
    nothing, since all that produces or all that reads them is zero (a masked model becomes its exact smaller self)."""
    criterion: CriterionName = "magnitude"
    """What weights are worth: the name of a mask modifier without ``_pruning``."""
    round_to: Annotated[int, Strict(), Field(ge=1)] = 8
    """What stays of a layer is a multiple of so many channels."""

    @property
    def wanted_share(self) -> float | None:
        return None if self.final_sparsity == "dead" else self.final_sparsity

    # -- what a subclass picks --------------------------------------------------------------------------------------

    def view(self, training: Training) -> ChannelView:
        """The groups that are its business, and why others are not."""
        return look(training, self.ignore)

    # -- what the framework asks -----------------------------------------------------------------------------------

    @property
    def calibrates(self) -> bool:
        return self._needs == "data" or (self._needs == "gradients" and self.acts_once)

    @property
    def _needs(self) -> str:
        """What is needed to know the worth of channels; what is dead shows by the weights."""
        return "weights" if self.final_sparsity == "dead" else self._criterion.needs

    @property
    def _criterion(self) -> Criterion:
        return criterion_named(self.criterion)

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        if not training.data.has_example or self._needs in ("data", "gradients"):
            return []
        view = self.view(training)
        state = self._begun(training, RemovalState(), view)
        made = self._solved(training, state, view, self.aim(1.0)) if view.groups else Verified(NOTHING)
        lines = [
            Foreseen(name, reason, refused=True)
            for name, reason in {**view.reasons, **made.unknown, **made.refused}.items()
        ]
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
        if self.aims_at_nothing(aim) or (self.wanted_share is not None and aim <= state.share):
            return
        view = self.view(training)
        if not state.groups:
            self._begun(training, state, view)
        made = self._solved(training, state, view, aim)
        cut, remark = view.with_settings(made.cut)
        commit(training.surgery, cut)
        self._record(training, view, made, remark)
        state.share = state.share if self.wanted_share is None else max(state.share, aim)
        self._criterion.renew(self._weights(training, state), state.watched)
        for removal in cut.removals:
            state.groups[removal.group.key][1] -= len(removal.units)
        state.refused = dict(made.refused)
        state.reached = self._reached(training, state)
        training.record("update", sparsity=_gone(state), **state.reached)

    def on_step(self, training: Training, state: RemovalState) -> None:
        if self._needs == "gradients" and not training.ended:
            watch(self._criterion, training, self._weights(training, state), state.watched)

    def on_end(self, training: Training, state: RemovalState) -> None:
        state.watched = Watched()

    def unreached(self, training: Training, state: RemovalState | None) -> str | None:
        state = state or RemovalState()
        missed = self.missed_budget(state.reached) or self.missed_share(_gone(state), self._slack(state))
        if self.final_sparsity == "dead" and (state.refused or not state.groups):
            missed = f"dead channels of {len(state.refused)} layers were left, of 0 was wanted"
        return missed and f"{missed} ({self._why(state)})"

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
        """What is cut; what turns out not to be possible is made up for by others, where all compete."""
        if self.final_sparsity == "dead":
            groups = [group for group in view.groups if group.key in state.groups]
            return view.verified(all_dead(groups, view.dead(groups), self.round_to))
        criterion = self._criterion
        scores = scores_of(criterion, training, self._weights(training, state), state.watched)
        groups = [group for group in view.groups if group.key in state.groups]
        found = {group.name: worth(group, scores, criterion.outputs_only, criterion.combined) for group in groups}
        worths = {name: each for name, each in found.items() if each is not None}
        unknown = {name: f"{self.criterion} has no scores for its channels" for name in found if name not in worths}
        for group in groups:
            if group.name in unknown:
                del state.groups[group.key]
        groups = [group for group in groups if group.name in worths]
        refused: dict[str, str] = {}
        if criterion.relative and self.scope == "global":
            worths = {name: each / each.mean().clamp_min(1e-300) for name, each in worths.items()}
        for name, marks in view.dead(groups).items():
            worths[name] = worths[name].masked_fill(marks, LEAST)
        for _ in range(ROUNDS):
            usable = [group for group in groups if group.name not in refused]
            if not usable:
                break
            share = self._share(training, state, view, usable, worths, aim)
            made = view.verified(self._chosen(usable, worths, state, share))
            refused.update(made.refused)
            if not made.refused:
                return Verified(made.cut, refused, unknown)
        return Verified(made.cut if usable else NOTHING, refused, unknown)

    def _chosen(
        self,
        groups: Sequence[ChannelGroup],
        worths: Mapping[str, Tensor],
        state: RemovalState,
        share: float,
    ) -> list[Removal]:
        return choose(groups, worths, state.groups, share, self.scope, self.round_to)

    def _share(
        self,
        training: Training,
        state: RemovalState,
        view: ChannelView,
        groups: Sequence[ChannelGroup],
        worths: Mapping[str, Tensor],
        aim: float,
    ) -> float:
        """The share of channels that meets the aim."""
        if self.budget is None:
            return aim
        allowed = {kind: share * state.costs[kind] for kind, share in self.allowed(aim).items()}
        latency = allowed.pop("latency", None)

        def counts_fit(share: float) -> bool:
            chosen = self._chosen(groups, worths, state, share)
            return all(view.costs.counted(kind, chosen) <= most for kind, most in allowed.items())

        def time_fits(share: float) -> bool:
            cut = view.verified(self._chosen(groups, worths, state, share)).cut
            return latency is None or view.latency(training, cut) <= latency

        counted = smallest_share(counts_fit) if allowed else 0.0
        return counted if latency is None else max(counted, smallest_share(time_fits, LATENCY_STEPS, counted))

    def _cost(self, training: Training, view: ChannelView, cut: Cut, kind: str) -> float:
        if kind == "latency":
            return view.latency(training, cut)
        return float(view.costs.counted(kind, cut.removals))

    def _reached(self, training: Training, state: RemovalState) -> dict[str, float]:
        """What is left of the budget's costs, counted and measured on the model as it is."""
        example = training.data.example()
        assert example is not None
        measured = measure_model(training.model, *example) if "macs" in state.costs else measure_model(training.model)
        now: dict[str, float | None] = {"macs": measured.weight_macs, "parameters": measured.parameters}
        if "latency" in state.costs:
            now["latency"] = training.latency({"it": training.model}, *example)["it"].median
        return {kind: (now[kind] or 0) / cost for kind, cost in state.costs.items()}

    def _slack(self, state: RemovalState) -> float:
        """What rounding may leave of the share: half a step of each group, and, of all together, a unit."""
        total = sum(original * width for original, _, width in state.groups.values())
        steps = sum(step_of(width, self.round_to) * width for _, _, width in state.groups.values())
        widest = max((width for _, _, width in state.groups.values()), default=0) if self.scope == "global" else 0
        return (steps / 2 + widest) / max(total, 1)

    def _why(self, state: RemovalState) -> str:
        if state.refused:
            return "; ".join(f"{name}: {reason}" for name, reason in list(state.refused.items())[:3])
        return f"of each layer at least one channel stays, and a multiple of round_to: {self.round_to}"

    def _record(self, training: Training, view: ChannelView, made: Verified, remark: str | None) -> None:
        if remark is not None:
            training.record("configuration", remark=remark)
        training.refuse({**view.reasons, **made.unknown, **made.refused})
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
