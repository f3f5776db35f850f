"""The base of the modifiers that remove channels and heads physically."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict, ValidationInfo, field_validator
from torch import Tensor, nn

from paredown.framework.channels import ChannelGroup, Cut, Removal, Verified, commit
from paredown.framework.curves import Curve, curve_value
from paredown.framework.errors import ScheduleError, TargetError
from paredown.framework.modifier import Foreseen, Share, TargetedModifier
from paredown.framework.targets import named_parameters
from paredown.framework.time import Time
from paredown.framework.training import Training
from paredown.modifiers.pruning.channel_budget import Budget, cost_of, smallest_share, weight_uses
from paredown.modifiers.pruning.channel_choice import choose, worth
from paredown.modifiers.pruning.channel_view import ChannelView, look, parameters_after
from paredown.modifiers.pruning.criterion import Criterion, CriterionName, Watched, criterion_named

__all__ = ["StructuredPruning", "StructuredState"]

#: how often what was refused is made up for elsewhere
ROUNDS = 4
LATENCY_STEPS = 6


@dataclass
class StructuredState:
    """How far physical pruning has come.

    Attributes:
        originals: units of each group before anything was removed, by its name.
        weights: names of the parameters whose scores count.
        cost: of the model before anything was removed, in the budget's terms.
        share: of the channels, reached.
        watched: what the criterion gathered.
    """

    originals: dict[str, int] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    cost: float = 0.0
    share: float = 0.0
    watched: Watched = field(default_factory=Watched)


class StructuredPruning(TargetedModifier):
    """Base: units of low worth leave the model; a subclass says which groups of units are its business."""

    claims: ClassVar = frozenset({"structure"})
    kinds: ClassVar = (nn.Module,)
    structural: ClassVar = True
    state_type: ClassVar = StructuredState

    every: Time | None = None
    """Distance between updates over the window. Default: everything at once, at ``start``."""
    initial_sparsity: Share = 0.0
    """Share that is removed at the start of the window, with ``every``."""
    curve: Curve = "cubic"
    """How the share moves over the window, with ``every``."""
    scope: Literal["global", "local"] = "global"
    """What competes: ``global`` all together, ``local`` each layer for itself. Magnitudes compete relative to the mean
    of their group, since the scale of weights differs from layer to layer and says nothing of their worth."""
    criterion: CriterionName = "magnitude"
    """What weights are worth: the name of a mask modifier without ``_pruning``."""
    round_to: Annotated[int, Strict(), Field(ge=1)] = 8
    """What stays of a layer is a multiple of so many channels."""
    budget: Budget | None = None
    """What may stay instead of ``final_sparsity``: ``{parameters: 0.5}``, ``{macs: 0.5}`` or ``{latency: 0.5}``."""
    final_sparsity: Share | None = Field(None, validate_default=True)
    """Share of the channels that is removed from the end of the window on."""

    @field_validator("final_sparsity")
    @classmethod
    def _one_aim(cls, value: float | None, info: ValidationInfo) -> float | None:
        budget = info.data.get("budget")
        if "budget" in info.data and (value is None) == (budget is None):
            raise ValueError("say what is removed, final_sparsity, or what may stay, budget: one of the two")
        return value

    # -- what a subclass says --------------------------------------------------------------------------------------

    def view(self, training: Training) -> ChannelView:
        """The groups that are its business, and why others are not."""
        return look(training, self)

    # -- what the framework asks -----------------------------------------------------------------------------------

    @property
    def acts_once(self) -> bool:
        return self.every is None

    @property
    def calibrates(self) -> bool:
        return self._criterion.needs_data or (self._criterion.watches and self.acts_once)

    @property
    def _criterion(self) -> Criterion:
        return criterion_named(self.criterion)

    def unused_fields(self) -> Sequence[str]:
        idle = {"initial_sparsity", "curve"} if self.acts_once else set()
        if self.curve == "constant" or not isinstance(self.curve, str):
            idle.add("initial_sparsity")
        return sorted(idle & self.model_fields_set)

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return [each for module in training.targets(self).values() for each in module.parameters(recurse=False)]

    def check(self, training: Training) -> None:
        super().check(training)
        if training.example() is None:
            raise ScheduleError(
                f"{self.name} ({self.type}) finds what goes together in the model's graph: give inputs to trace it "
                "with, example_inputs=(x,), or data=loader"
            )

    def remarks(self, training: Training) -> Sequence[str]:
        lines = list(super().remarks(training))
        if training.example() is None:
            lines.append("what goes together is found in the model's graph: give example_inputs to see it")
        return lines

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        if training.example() is None or self._criterion.watches or self._criterion.needs_data:
            return []
        view = self.view(training)
        state = self._begun(training, StructuredState(), view)
        made = self._solved(training, state, view, self._aim(1.0)) if view.groups else Verified(Cut((), {}, ()))
        lines = [Foreseen(name, reason, refused=True) for name, reason in {**view.reasons, **made.refused}.items()]
        told = view.with_settings(made.cut)[1]
        lines += [Foreseen("config", told)] if told else []
        gone = {name for removal in made.cut.removals for name in removal.group.layers}
        after = parameters_after(training.model, made.cut)
        lines += [
            Foreseen(name, _told(made.cut, name, name in gone), parameters=count) for name, count in after.items()
        ]
        return lines

    def on_start(self, training: Training) -> StructuredState:
        state = StructuredState()
        return state if self.acts_once else self._begun(training, state, self.view(training))

    def on_update(self, training: Training, state: StructuredState) -> None:
        aim = self._aim(training.progress(self))
        if aim == self._aim_of_nothing or (self.budget is None and aim <= state.share):
            return
        view = self.view(training)
        if not state.originals:
            self._begun(training, state, view)
        made = self._solved(training, state, view, aim)
        cut, told = view.with_settings(made.cut)
        commit(training.surgery, cut)
        self._tell(training, view, made, told)
        state.share = max(state.share, aim if self.budget is None else 0.0)
        self._criterion.renew(self._weights(training, state), state.watched)
        training.record(self, "update", sparsity=self._reached(training, state, made))

    def on_step(self, training: Training, state: StructuredState) -> None:
        if self._criterion.watches and self.name not in training.ended:
            self._criterion.watch(training, self._weights(training, state), state.watched)

    def on_end(self, training: Training, state: StructuredState) -> None:
        state.watched = Watched()

    def unreached(self, training: Training, state: StructuredState | None) -> str | None:
        if self.final_sparsity is None:
            return "the budget was not reached"
        reached = 0.0 if state is None else state.share
        return f"sparsity {reached:.4g} was reached, {self.final_sparsity:.4g} was wanted"

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _aim_of_nothing(self) -> float:
        return 0.0 if self.budget is None else 1.0

    def _aim(self, progress: float) -> float:
        """The share that is removed, or, with a budget, the share that may stay."""
        if self.budget is not None:
            return curve_value(self.curve, progress, 1 - self.initial_sparsity, self.budget.share)
        assert self.final_sparsity is not None
        return curve_value(self.curve, progress, min(self.initial_sparsity, self.final_sparsity), self.final_sparsity)

    def _begun(self, training: Training, state: StructuredState, view: ChannelView) -> StructuredState:
        if not view.groups:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(view.reasons.items())[:3])
            raise TargetError(f"{self.name}: nothing can be removed ({reasons or 'no target produces channels'})")
        parameters = named_parameters(training.model)
        state.originals = {group.name: group.units for group in view.groups}
        state.weights = [name for name in view.tensors if name in parameters]
        state.watched = self._criterion.start(training, self._weights(training, state))
        if self.budget is not None:
            state.cost = self._cost(training, view, Cut((), {}, ()))
        return state

    def _weights(self, training: Training, state: StructuredState) -> dict[str, nn.Parameter]:
        parameters = named_parameters(training.model)
        return {name: parameters[name] for name in state.weights}

    def _solved(self, training: Training, state: StructuredState, view: ChannelView, aim: float) -> Verified:
        """What is cut; what turns out not to be possible is made up for by others."""
        criterion = self._criterion
        scores = criterion.scores(training, self, self._weights(training, state), state.watched)
        groups = [group for group in view.groups if group.name in state.originals]
        worths = {group.name: worth(group, scores, criterion.outputs_only, criterion.combined) for group in groups}
        if criterion.by_magnitude and self.scope == "global":
            worths = {name: each / each.mean().clamp_min(1e-300) for name, each in worths.items()}
        refused: dict[str, str] = {}
        for _ in range(ROUNDS):
            usable = [group for group in groups if group.name not in refused]
            if not usable:
                break
            share = self._share(training, state, view, usable, worths, aim)
            made = view.verified(self._chosen(usable, worths, state, share))
            refused.update(made.refused)
            if not made.refused:
                return Verified(made.cut, refused)
        return Verified(made.cut if usable else Cut((), {}, ()), refused)

    def _chosen(
        self, groups: Sequence[ChannelGroup], worths: Mapping[str, Tensor], state: StructuredState, share: float
    ) -> list[Removal]:
        return choose(groups, worths, state.originals, share, self.scope, self.round_to)

    def _share(
        self,
        training: Training,
        state: StructuredState,
        view: ChannelView,
        groups: Sequence[ChannelGroup],
        worths: Mapping[str, Tensor],
        aim: float,
    ) -> float:
        """The share of channels that meets the aim."""
        if self.budget is None:
            return aim
        allowed = aim * state.cost
        if self.budget.kind == "latency":
            return smallest_share(
                lambda share: (
                    self._cost(training, view, view.verified(self._chosen(groups, worths, state, share)).cut) <= allowed
                ),
                LATENCY_STEPS,
            )
        uses = weight_uses(view.analysis, self.budget.kind)
        return smallest_share(
            lambda share: cost_of(training.model, uses, self._chosen(groups, worths, state, share)) <= allowed
        )

    def _cost(self, training: Training, view: ChannelView, cut: Cut) -> float:
        assert self.budget is not None
        if self.budget.kind == "latency":
            return view.latency(training, cut)
        return float(cost_of(training.model, weight_uses(view.analysis, self.budget.kind), cut.removals))

    def _reached(self, training: Training, state: StructuredState, made: Verified) -> float:
        gone = sum(len(removal.units) for removal in made.cut.removals)
        return gone / max(sum(state.originals.values()), 1)

    def _tell(self, training: Training, view: ChannelView, made: Verified, told: str | None) -> None:
        if told is not None:
            training.record(self, "configuration", remark=told)
        for name, reason in {**view.reasons, **made.refused}.items():
            training.record(self, "left alone", layer=name, reason=reason)
        for removal in made.cut.removals:
            stays = removal.group.units - len(removal.units)
            training.record(self, "cut", layer=removal.group.name, units=stays, of=removal.group.units)


def _told(cut: Cut, name: str, produces: bool) -> str:
    for removal in cut.removals:
        if name in removal.group.layers:
            stays = removal.group.units - len(removal.units)
            unit = "channels" if removal.group.width == 1 else f"units of {removal.group.width} channels"
            return f"{removal.group.units} -> {stays} {unit}"
    return "shrinks along"
