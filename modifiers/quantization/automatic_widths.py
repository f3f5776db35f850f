"""`bits: auto`: a width for each layer, under a budget for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

from pydantic import Field, Strict
from torch import nn

from paredown.framework.calibration.allocation import Option, allocate
from paredown.framework.calibration.sensitivity import scan
from paredown.framework.errors import ScheduleError
from paredown.framework.model.links import add_link, remove_links
from paredown.framework.model.weights import WeightLayout
from paredown.framework.modifier.fields import Budget, Trial
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.kinds import weight_names
from paredown.modifiers.quantization.layers.quantizers import WeightQuantizer
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.width_costs import Treated, WidthCosts, width_costs

__all__ = ["WidthBudget", "choose_widths", "width_trials"]

ShareOfCost = Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)]
WIDTHS = (8, 6, 5, 4, 3, 2)
#: choices that are tried in the whole model, at most
CORRECTIONS = 6
#: samples that the widths are chosen on, at most
SCANNED = 256


class WidthBudget(Budget):
    """What the layers together may cost, as a share of what they cost in their own type; one of the three."""

    bytes: ShareOfCost | None = None
    """Of the weights, scales included."""
    bit_operations: ShareOfCost | None = None
    """Multiply-accumulates times the widths of weights and inputs (van Baalen et al., 2020, arXiv:2005.07093): what
    stands in for latency where no kernel of every width can be timed. Needs ``example_inputs``."""
    latency: ShareOfCost | None = None
    """CPU time of the whole model in ``run.engine``, by the times of its layers there, each measured alone; layers may
    stay in floating point, those that quantization damages most. Needs ``example_inputs`` or data."""


def choose_widths(
    training: Training, layers: Treated, budget: WidthBudget, samples: int | None, dynamic: bool = False
) -> dict[str, int | None]:
    """The widths of the layers whose scheme has ``bits: auto``, by measured damage to the model's output; None, under a
    budget of latency: the layer is better left in floating point.

    Args:
        samples: how much of the data is used; None: 256.
        dynamic: whether inputs are quantized as they come.

    Raises:
        ScheduleError: the budget cannot be met; what is missing.
    """
    free = {name: each for name, each in layers.items() if each[1].weights and each[1].weights.bits == "auto"}
    costs = width_costs(training, budget.kind, free, dynamic)
    found: dict[str, list[Option]] = {}
    for each in scan(training, _trials(costs, free), min(samples or SCANNED, SCANNED)):
        found.setdefault(each.layer, []).append(Option(each.setting, each.cost, each.error))
    if budget.kind == "latency":
        for name, options in found.items():
            options.append(Option(None, costs.of_layer(name, *free[name], None), 0.0))
    allowed, beyond = costs.allowed(free, budget.share), 0.0
    for _ in range(CORRECTIONS):
        try:
            chosen = {name: option.setting for name, option in allocate(found, allowed).items()}
        except ValueError as error:
            raise ScheduleError(f"{training.name}: budget {budget.kind} {budget.share:g}: {error}") from None
        beyond = costs.beyond(training, free, chosen, budget.share)
        if beyond <= 0:
            return chosen
        allowed -= beyond
    raise ScheduleError(
        f"{training.name}: budget {budget.kind} {budget.share:g} is missed by {beyond:.3g} milliseconds"
    )


def width_trials(training: Training, layers: Treated) -> list[Trial]:
    """Each layer at each width, its weights alone; costs in bytes."""
    return _trials(width_costs(training, "bytes", layers), layers)


def _trials(costs: WidthCosts, layers: Treated) -> list[Trial]:
    return [
        Trial(
            layer=name,
            setting=bits,
            unit="bits",
            cost=costs.of_layer(name, module, schemes, bits),
            whole=costs.of_layer(name, module, schemes, None),
            treated=partial(_at_width, module, schemes.weights, bits),
        )
        for name, (module, schemes) in layers.items()
        if schemes.weights is not None and schemes.weights.format == "int"
        for bits in WIDTHS
    ]


@contextmanager
def _at_width(module: nn.Module, scheme: WeightScheme, bits: int) -> Iterator[None]:
    link = WeightQuantizer(scheme.at_width(bits), weight_names(module), WeightLayout.of(module))
    add_link(module, link)
    try:
        yield
    finally:
        remove_links(module, [link])
