"""Which layers are decomposed, and to which ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from paredown.framework.calibration.layer_inputs import layer_inputs
from paredown.framework.errors import TargetError
from paredown.framework.model.forward import call
from paredown.framework.model.targets import match
from paredown.framework.model.temporary import buffers_kept, evaluating, modules_replaced
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.training import Training
from paredown.modifiers.decomposition.choice.guard import (
    measured_speedup,
    ranks_text,
    slower_by_latency,
    slower_by_rule,
    too_large,
)
from paredown.modifiers.decomposition.choice.ranks import Faster, LayerRank, LayerRanks, chosen_ranks
from paredown.modifiers.decomposition.choice.sites import Site, Sites
from paredown.modifiers.decomposition.forms.base import Ranks

__all__ = ["RATIOS", "Choice", "Guard", "GuardKind", "choose_ranks", "foreseen_lines", "refuse_what_cannot_run"]

#: by what a layer's weights are divided in trials, for a budget, and for a latency
RATIOS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


GuardKind = Literal["latency", "rule", "none"]


@dataclass
class Choice:
    """The ranks of the layers that are decomposed, by name, and why the others are left alone."""

    ranks: dict[str, Ranks] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def refuse(self, name: str, reason: str) -> None:
        """Leave a layer alone."""
        self.ranks.pop(name, None)
        self.refused[name] = reason


@dataclass(frozen=True)
class Guard:
    """What decides whether a layer pays.

    ``inputs`` are those of the layers that are measured; the others are judged by the rule. Where ``off``, all pay.
    """

    training: Training
    off: bool
    inputs: Mapping[str, Tensor]
    min_speedup: float

    @classmethod
    def of(cls, training: Training, sites: Sites, kind: GuardKind | None, min_speedup: float) -> Guard:
        """The guard of a kind; by default latency where there are example inputs, else the rule."""
        measured = kind == "latency" or (kind is None and training.data.example_inputs is not None)
        layers = [site for site in sites.layers.values() if measured and (site.form.saves_time or kind == "latency")]
        inputs = layer_inputs(training, [site.name for site in layers]) if layers else {}
        return cls(training, kind == "none", inputs, min_speedup)

    def objection(self, site: Site, ranks: Ranks) -> str | None:
        """Why a layer of these ranks does not pay, if so."""
        if self.off:
            return None
        large = too_large(site.form, ranks)
        if large is not None:
            return large
        if site.name in self.inputs:
            return slower_by_latency(self.training, site, ranks, self.inputs[site.name], self.min_speedup)
        return slower_by_rule(site.form, ranks)


def choose_ranks(training: Training, sites: Sites, guard: Guard, rank: Faster | LayerRanks | LayerRank) -> Choice:
    """Ranks layer by layer; see `paredown.modifiers.decomposition.choice.rank_budget` for one target for all.

    Raises:
        TargetError: a pattern of ``{layers: ...}`` means none of the layers.
    """
    choice = Choice(refused=dict(sites.refused))
    if isinstance(rank, Faster):
        inputs = layer_inputs(training, sites.layers)
        for site in sites.layers.values():
            _choose_by_latency(training, choice, site, inputs.get(site.name), rank.latency)
        return choice
    for name, wanted in _wanted(training, sites, rank).items():
        site = sites.layers[name]
        ranks = None if wanted is None else chosen_ranks(wanted, site.form, site.tensor)
        objection = "no pattern of rank: layers means it" if ranks is None else guard.objection(site, ranks)
        if ranks is None or objection is not None:
            choice.refuse(name, str(objection))
        else:
            choice.ranks[name] = ranks
    return choice


def refuse_what_cannot_run(training: Training, sites: Sites, choice: Choice) -> None:
    """Leave layers alone whose parent needs more of them than their forward; tried on the example inputs."""
    example = training.data.example() if training.data.has_example else None
    if example is None or _failure(training, {}, example) is not None:
        return
    news = {name: site.skeleton(choice.ranks[name]) for name, site in sites.layers.items() if name in choice.ranks}
    if _failure(training, news, example) is None:
        return
    for name, new in news.items():
        failure = _failure(training, {name: new}, example)
        if failure is not None:
            choice.refuse(name, f"the model does not run with other layers in its place: {failure}")


def foreseen_lines(sites: Sites, choice: Choice) -> Sequence[Foreseen]:
    """The lines of a plan; the projections of an attention that has none yet share one line."""
    lines = [
        Foreseen(name, reason, refused=True)
        for name, reason in choice.refused.items()
        if name not in sites.layers or sites.layers[name].attention is None
    ]
    alone = [site for name, site in sites.layers.items() if name in choice.ranks and site.attention is None]
    lines += [Foreseen(site.name, _effect(site, choice), parameters=_parameters(site, choice)) for site in alone]
    for name in sites.attentions:
        lines.append(_attention_line(name, sites, choice))
    return lines


def _wanted(training: Training, sites: Sites, rank: LayerRanks | LayerRank) -> dict[str, LayerRank | None]:
    if not isinstance(rank, LayerRanks):
        return dict.fromkeys(sites.layers, rank)
    found: dict[str, LayerRank | None] = dict.fromkeys(sites.layers)
    for pattern, own in rank.layers.items():
        layers = match(training.model, [pattern], [], (nn.Module,)).modules
        meant = [name for name in sites.layers if name in layers]
        if not meant and not any(name in layers for name in sites.refused):
            raise TargetError(f"{training.name}: rank: layers: {pattern!r} means none of the layers")
        found.update(dict.fromkeys(meant, own))
    return found


def _choose_by_latency(training: Training, choice: Choice, site: Site, inputs: Tensor | None, speedup: float) -> None:
    """The largest of the ranks that are tried with which the layer is fast enough."""
    if inputs is None:
        choice.refuse(site.name, "the example inputs do not reach it, so its latency cannot be measured")
        return
    for ratio in RATIOS:
        ranks = site.form.of_ratio(ratio)
        if measured_speedup(training, site, ranks, inputs) >= speedup:
            choice.ranks[site.name] = ranks
            return
    choice.refuse(site.name, f"it is slower than asked at every rank that was tried, {speedup:g}x was asked for")


def _failure(training: Training, news: Mapping[str, nn.Module], example: tuple[Any, Any]) -> str | None:
    """How a forward of the model fails with these modules; None: it does not."""
    model = training.model
    try:
        with modules_replaced(model, news), evaluating(model), buffers_kept(model):
            call(model, *example)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _effect(site: Site, choice: Choice) -> str:
    return f"rank {ranks_text(choice.ranks[site.name])} of {ranks_text(site.form.full)}"


def _parameters(site: Site, choice: Choice) -> int:
    bias = 0 if site.bias is None else site.bias.numel()
    if site.name not in choice.ranks:
        return site.form.dense + bias
    return site.form.parameters(choice.ranks[site.name]) + bias


def _attention_line(name: str, sites: Sites, choice: Choice) -> Foreseen:
    projections = [site for site in sites.layers.values() if site.attention == name]
    told_each = [
        f"{site.name.rpartition('.')[2]} "
        + (_effect(site, choice) if site.name in choice.ranks else f"left alone ({choice.refused[site.name]})")
        for site in projections
    ]
    refused = not any(site.name in choice.ranks for site in projections)
    inside = [site for site in projections if not site.name.endswith(".out_proj")]
    others = sum(each.numel() for each in sites.attentions[name].parameters(recurse=False))
    parameters = None if refused else sum(_parameters(site, choice) for site in inside) + others
    return Foreseen(name, "; ".join(told_each), refused=refused, parameters=parameters)
