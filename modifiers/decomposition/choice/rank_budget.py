"""Ranks under one budget for the whole model, by what each layer's does to the output."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from paredown.framework.calibration.allocation import Option, allocate
from paredown.framework.calibration.layer_inputs import layer_inputs
from paredown.framework.calibration.sensitivity import scan
from paredown.framework.errors import ScheduleError
from paredown.framework.measure.counts import measure_model
from paredown.framework.model.targets import pattern_of
from paredown.framework.model.temporary import modules_replaced
from paredown.framework.modifier.fields import Trial
from paredown.framework.modifier.training import Training
from paredown.modifiers.decomposition.choice.choose import RATIOS, Choice, Guard
from paredown.modifiers.decomposition.choice.ranks import Cost
from paredown.modifiers.decomposition.choice.sites import Site, Sites
from paredown.modifiers.decomposition.forms.base import Ranks

__all__ = ["choose_within_budget", "layer_ratios", "ratio_trials"]

#: after a setting, by what a layer's weights are divided
UNIT = "x smaller"
Costs = Callable[[Site, Ranks | None], float]


def choose_within_budget(training: Training, sites: Sites, guard: Guard, budget: Cost, samples: int | None) -> Choice:
    """Ranks that together fit the budget and, as far as can be measured layer by layer, change the output least.

    Raises:
        ScheduleError: the ranks that were tried, and that pay, cannot meet it; or there is no data.
    """
    whole, cost = _costs(training, sites, budget.kind)
    trials = [
        trial
        for trial in _trials(training, sites, cost)
        if guard.objection(sites.layers[trial.layer], sites.layers[trial.layer].form.of_ratio(trial.setting)) is None
    ]
    options = {name: [Option(None, cost(site, None), 0.0)] for name, site in sites.layers.items()}
    for each in scan(training, trials, samples):
        options[each.layer].append(Option(each.setting, each.cost, each.error))
    rest = whole - sum(each[0].cost for each in options.values())
    try:
        taken = allocate(options, budget.share * whole - rest)
    except ValueError:
        least = rest + sum(min(option.cost for option in each) for each in options.values())
        raise ScheduleError(
            f"{training.name}: the budget of {budget.share:g} of the {budget.kind} cannot be met: the ranks that "
            f"{'were tried' if guard.off else 'pay'} lead to {least / whole:.3g} at the least; raise the budget, or "
            f"widen the targets{'' if guard.off else ', or set guard: none'}"
        ) from None
    return _choice(sites, {name: option.setting for name, option in taken.items()})


def ratio_trials(training: Training, sites: Sites) -> list[Trial]:
    """Each layer alone at each ratio that makes it smaller; what is tried is kept in memory."""
    return _trials(training, sites, _parameters)


def layer_ratios(training: Training, settings: Mapping[str, float | None]) -> dict[str, Any] | None:
    """The fields of a recipe that decompose each layer by its own ratio; None where nothing is decomposed."""
    ratios = {
        pattern_of(training.model, name): {"ratio": ratio} for name, ratio in settings.items() if ratio is not None
    }
    return {"rank": {"layers": ratios}} if ratios else None


def _choice(sites: Sites, ratios: Mapping[str, float | None]) -> Choice:
    choice = Choice(refused=dict(sites.refused))
    for name, ratio in ratios.items():
        if ratio is None:
            choice.refuse(name, "the budget leaves it as it is")
        else:
            choice.ranks[name] = sites.layers[name].form.of_ratio(ratio)
    return choice


def _trials(training: Training, sites: Sites, cost: Costs) -> list[Trial]:
    trials = []
    for name, site in sites.layers.items():
        whole = cost(site, None)
        for ratio in RATIOS:
            ranks = site.form.of_ratio(ratio)
            if site.form.parameters(ranks) < site.form.dense:
                treated = _treated(training.model, sites, site, ranks)
                trials.append(Trial(name, ratio, UNIT, cost(site, ranks), whole, treated))
    return trials


def _treated(model: nn.Module, sites: Sites, site: Site, ranks: Ranks) -> Callable[[], AbstractContextManager[None]]:
    """A context in which the model has one layer decomposed; what that takes is computed once."""
    made = functools.cache(lambda: site.form.module(site.form.factors(site.tensor, ranks), site.bias).eval())

    @contextmanager
    def treated() -> Iterator[None]:
        with sites.standing(model), modules_replaced(model, {site.name: made()}):
            yield

    return treated


def _costs(training: Training, sites: Sites, kind: str) -> tuple[float, Costs]:
    """What the whole model costs, and what a layer does, as it is or with ranks."""
    if kind == "parameters":
        return sum(parameter.numel() for parameter in training.model.parameters()), _parameters
    if kind == "bytes":
        whole = sum(parameter.numel() * parameter.element_size() for parameter in training.model.parameters())
        return whole, lambda site, ranks: _parameters(site, ranks) * site.tensor.element_size()
    example = training.data.example()
    if example is None:
        raise ScheduleError(f"{training.name}: a budget of macs needs example_inputs=(x,), or data=loader")
    inputs = layer_inputs(training, sites.layers)
    whole = measure_model(training.model, *example).weight_macs or 0
    return whole, lambda site, ranks: _macs(site, ranks, inputs.get(site.name))


def _parameters(site: Site, ranks: Ranks | None) -> float:
    return site.form.dense if ranks is None else site.form.parameters(ranks)


def _macs(site: Site, ranks: Ranks | None, inputs: Tensor | None) -> float:
    if inputs is None:
        return 0.0
    module = site.module if ranks is None else site.skeleton(ranks)
    return measure_model(module, inputs).weight_macs or 0
