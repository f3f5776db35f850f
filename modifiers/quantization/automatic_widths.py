"""`bits: auto`: a width for each layer, under a budget for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.calibration.allocation import Option, allocate
from paredown.framework.calibration.sensitivity import scan
from paredown.framework.errors import ScheduleError
from paredown.framework.measure.counts import measure_model
from paredown.framework.model.links import add_link, remove_links
from paredown.framework.model.weights import WeightLayout
from paredown.framework.modifier.fields import Budget, Trial
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.kinds import weight_names
from paredown.modifiers.quantization.layers.quantizers import WeightQuantizer
from paredown.modifiers.quantization.layers.schemes import LayerSchemes
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import view_of

__all__ = ["WidthBudget", "choose_widths", "width_trials"]

Treated = Mapping[str, tuple[nn.Module, LayerSchemes]]
ShareOfCost = Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)]
WIDTHS = (8, 6, 5, 4, 3, 2)
#: samples that the widths are chosen on, at most
SCANNED = 256
#: what a scale takes
SCALE_BITS = 32


class WidthBudget(Budget):
    """What the layers together may cost, as a share of what they cost in their own type; one of the two."""

    bytes: ShareOfCost | None = None
    """Of the weights, scales included."""
    bit_operations: ShareOfCost | None = None
    """Multiply-accumulates times the widths of weights and inputs (van Baalen et al., 2020, arXiv:2005.07093): what
    stands in for latency where no kernel of every width can be timed. Needs ``example_inputs``."""


@dataclass(frozen=True)
class _Costs:
    """What layers cost, in bytes or bit operations; ``macs`` by layer name, for the latter."""

    kind: str
    macs: Mapping[str, int]

    @classmethod
    def of(cls, training: Training, kind: str) -> _Costs:
        if kind == "bytes":
            return cls(kind, {})
        if training.data.example_inputs is None:
            raise ScheduleError("a budget of bit_operations needs example_inputs")
        measured = measure_model(training.model, training.data.example_inputs).layers
        return cls(kind, {layer.name: layer.macs or 0 for layer in measured})

    def of_layer(self, name: str, module: nn.Module, schemes: LayerSchemes, bits: int | None) -> float:
        """Of one layer with weights of ``bits``; None: of its own type."""
        weights: Sequence[Any] = [module._parameters[key] for key in weight_names(module)]
        own = weights[0].element_size() * 8
        if self.kind == "bytes":
            rows = [WeightLayout.of(module).rows(weight.detach()) for weight in weights]
            scales = 0 if bits is None else sum(_scales(each, schemes.weights) for each in rows)
            count: int = sum(weight.numel() for weight in weights)
            return float(count * (bits or own) + scales * SCALE_BITS) / 8
        inputs = own if bits is None or schemes.activations is None else schemes.activations.width
        return float(self.macs.get(name, 0) * (bits or own) * inputs)


def choose_widths(training: Training, layers: Treated, budget: WidthBudget, samples: int | None) -> dict[str, int]:
    """The widths of the layers whose scheme has ``bits: auto``, by measured damage to the model's output.

    Raises:
        ScheduleError: the budget cannot be met; what is missing.
    """
    free = {name: each for name, each in layers.items() if each[1].weights and each[1].weights.bits == "auto"}
    found: dict[str, list[Option]] = {}
    for each in scan(training, width_trials(training, free, budget.kind), min(samples or SCANNED, SCANNED)):
        found.setdefault(each.layer, []).append(Option(each.setting, each.cost, each.error))
    costs, share = _Costs.of(training, budget.kind), budget.share
    whole = sum(costs.of_layer(name, module, schemes, None) for name, (module, schemes) in free.items())
    try:
        chosen = allocate(found, share * whole)
    except ValueError as error:
        raise ScheduleError(f"{training.name}: budget {budget.kind} {share:g}: {error}") from None
    return {name: option.setting for name, option in chosen.items()}


def width_trials(training: Training, layers: Treated, kind: str = "bytes") -> list[Trial]:
    """Each layer at each width, its weights alone; costs in ``kind``."""
    costs = _Costs.of(training, kind)
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


def _scales(rows: Tensor, scheme: WeightScheme | None) -> int:
    """How many scales a weight has."""
    if scheme is None:
        return 0
    view, shared = view_of(rows, scheme)
    count = view.numel()
    for dimension in shared:
        count //= max(view.shape[dimension], 1)
    return int(count)
