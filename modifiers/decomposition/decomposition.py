"""The base of the decomposition modifiers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, Strict
from torch import nn

from paredown.framework.model.optimizers import takes_matrices_only
from paredown.framework.model.surgery import refusal_to_replace
from paredown.framework.model.targets import named_modules
from paredown.framework.model.weights import refuse_not_finite
from paredown.framework.modifier.base import Foreseen, Recalibrating, TargetedModifier
from paredown.framework.modifier.curves import Curve, curve_value
from paredown.framework.modifier.fields import Trial
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.modifiers.decomposition.choice.choose import (
    Choice,
    Guard,
    GuardKind,
    choose_ranks,
    foreseen_lines,
    refuse_what_cannot_run,
)
from paredown.modifiers.decomposition.choice.guard import ranks_text
from paredown.modifiers.decomposition.choice.rank_budget import choose_within_budget, layer_ratios, ratio_trials
from paredown.modifiers.decomposition.choice.ranks import Budgeted, Rank, Ratio
from paredown.modifiers.decomposition.choice.replacement import UNCHANGED, UseOfData, decompose_layers
from paredown.modifiers.decomposition.choice.sites import (
    Site,
    Sites,
    bias_of,
    find_sites,
    refuse_where_matrices_are_wanted,
)
from paredown.modifiers.decomposition.forms.base import Form, Ranks
from paredown.modifiers.decomposition.forms.geometry import KINDS, Geometry
from paredown.modifiers.decomposition.forms.projected_attention import projected_attention

__all__ = ["Decomposition"]


class Decomposition(Recalibrating, TargetedModifier):
    """Base: each layer becomes several ordinary ones whose product is near it.

    Where ``every`` is set, ranks fall over the window, from those that have as many parameters as the layer to the
    final ones; else all is done at ``start``.
    """

    claims: ClassVar = frozenset({"structure"})
    kinds: ClassVar = (*KINDS, nn.MultiheadAttention)
    structural: ClassVar = True
    #: the fields that decide about `form`: a checkpoint keeps them
    form_fields: ClassVar[tuple[str, ...]] = ()

    rank: Rank = Ratio(ratio=2.0)
    """What is kept of each layer."""
    activation_aware: bool = False
    """Keep what the layers give out on ``data`` rather than their weights; 256 samples or more."""
    samples: Annotated[int, Strict(), Field(ge=1)] | None = 512
    """How much of ``data`` is used: to keep activations, to share out a budget, to estimate batch-norms anew; null:
    all."""
    guard: GuardKind | None = None
    """What decides whether a layer pays: measured latency, a rule of thumb, or nothing. Default: latency where
    ``example_inputs`` are given, else the rule; of what saves size and no time (embeddings, trains of matrices) only
    the size counts then."""
    min_speedup: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] = 1.05
    """What ``guard: latency`` asks for."""
    every: Time | None = None
    """Distance between updates over the window. Default: everything at once, at ``start``."""
    curve: Curve = "cubic"
    """How the ranks fall over the window, with ``every``."""

    @abstractmethod
    def form(self, geometry: Geometry) -> Form | str:
        """How a layer is decomposed, or why it is not."""

    @property
    def update_interval(self) -> Time | None:
        return self.every

    @property
    def acts_once(self) -> bool:
        return self.every is None

    @property
    def calibrates(self) -> bool:
        return self.activation_aware or isinstance(self.rank, Budgeted)

    @property
    def recalibration_samples(self) -> int | None:
        return self.samples

    def unused_fields(self) -> Sequence[str]:
        idle = {"min_speedup"} if self.guard in ("rule", "none") else set()
        idle |= {"curve"} if self.acts_once else set()
        return sorted(idle & self.model_fields_set)

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return [each for module in training.targets().values() for each in module.parameters()]

    def check(self, training: Training) -> None:
        super().check(training)
        for name, module in training.targets().items():
            refuse_not_finite(name, module, UNCHANGED, ("weight", "in_proj_weight"))
        if any(map(takes_matrices_only, training.optimizers)):
            refuse_where_matrices_are_wanted(training, self._sites(training))

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        sites = self._sites(training)
        with sites.standing(training.model):
            if isinstance(self.rank, Budgeted):
                lines = [Foreseen(name, reason, refused=True) for name, reason in sites.refused.items()]
                return [*lines, *(Foreseen(name, "rank by the budget, on data") for name in sites.layers)]
            return foreseen_lines(sites, self._choose(training, sites))

    def trials(self, training: Training) -> Sequence[Trial]:
        return ratio_trials(training, self._sites(training))

    def with_settings(self, training: Training, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        return layer_ratios(training, settings)

    def on_update(self, training: Training, state: None) -> None:
        known = self._made(training)
        if known:
            self._go_on(training, known)
            return
        sites = self._sites(training)
        with sites.standing(training.model):
            choice = self._choose(training, sites)
        training.refuse(choice.refused)
        self._decompose(training, sites, choice.ranks)

    def rebuild(self, module: nn.Module, spec: Mapping[str, Any]) -> nn.Module:
        if spec.get("attention"):
            return projected_attention(module)  # type: ignore[arg-type]
        return self._form_of(spec).skeleton(tuple(spec["ranks"]), next(module.parameters()), bias_of(module))

    def unreached(self, training: Training, state: None) -> str | None:
        known = self._made(training)
        behind = [name for name, spec in known.items() if spec["ranks"] != spec["final"]]
        if not behind:
            return None
        spec = known[behind[0]]
        return f"rank {ranks_text(spec['ranks'])} of {behind[0]} was reached, {ranks_text(spec['final'])} was wanted"

    def _made(self, training: Training) -> dict[str, Mapping[str, Any]]:
        """What was recorded of the layers that it decomposed, the last record of each."""
        records = [each for each in training.surgery.records if each["operation"] == "replace"]
        mine = [each for each in records if each["modifier"] == self.name and not each["spec"].get("attention")]
        return {record["module"]: record["spec"] for record in mine}

    def _sites(self, training: Training) -> Sites:
        return find_sites(training, training.targets(), self.form)

    def _choose(self, training: Training, sites: Sites) -> Choice:
        guard = Guard.of(training, sites, self.guard, self.min_speedup)
        if isinstance(self.rank, Budgeted):
            choice = choose_within_budget(training, sites, guard, self.rank.budget, self.samples)
        else:
            choice = choose_ranks(training, sites, guard, self.rank)
        refuse_what_cannot_run(training, sites, choice)
        return choice

    def _go_on(self, training: Training, known: Mapping[str, Mapping[str, Any]]) -> None:
        """Lower the ranks of what an earlier update made."""
        sites, final = Sites(), {}
        for name, spec in known.items():
            final[name] = tuple(spec["final"])
            reason = refusal_to_replace(training.model, name, training.states)
            sites.add_again(name, named_modules(training.model)[name], self._form_of(spec), reason)
        self._decompose(training, sites, {name: final[name] for name in sites.layers})

    def _decompose(self, training: Training, sites: Sites, final: Mapping[str, Ranks]) -> None:
        ranks = {name: self._ranks_now(training, sites.layers[name], final[name]) for name in final}
        fields = {name: getattr(self, name) for name in self.form_fields}
        use = UseOfData(self.activation_aware, self.samples)
        decompose_layers(training, sites, ranks, final, fields, use)

    def _ranks_now(self, training: Training, site: Site, final: Ranks) -> Ranks:
        """The ranks at this point of the window: from those with as many parameters as the layer to the final ones."""
        start = site.form.largest(site.form.dense)
        progress = training.progress
        return tuple(
            max(round(curve_value(self.curve, progress, max(most, least), least)), least)
            for most, least in zip(start, final, strict=True)
        )

    def _form_of(self, spec: Mapping[str, Any]) -> Form:
        form = self.model_copy(update=dict(spec["fields"])).form(Geometry.from_plain(spec["geometry"]))
        assert not isinstance(form, str)
        return form
