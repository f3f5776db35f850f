"""What the file of a mixture costs: foreseen from what single proposals cost, and measured without training."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from paredown.framework.engine.contract import Engine
from paredown.framework.engine.timing import latencies
from paredown.framework.experiments.recommend.budgets import COSTS
from paredown.framework.experiments.recommend.mixtures import Mixture
from paredown.framework.measure.counts import measure_model
from paredown.framework.model.batches import Inputs
from paredown.framework.storage.archive import zip_files

__all__ = ["CostTable", "Costs", "costs_of", "file_costs"]

#: by the names of `COSTS`
Costs = Mapping[str, float]
REPETITIONS = 12


def costs_of(model: nn.Module, inputs: Inputs, engine: Engine, reference: Path | None = None) -> dict[str, float]:
    """What the file of a model costs in an engine, packed where the engine unpacks; the model stays as it is.

    Args:
        reference: a file whose latency is measured in turns with this one; then "latency" is the ratio.

    Raises:
        ExportError: it cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{engine.suffix}"
        engine.write(model, inputs.example_inputs, path, forward=inputs.forward)
        if engine.profile.folds:
            plain, path = path, path.with_name(f"packed{engine.suffix}")
            engine.pack(plain, path)
        measured = measure_model(model, inputs.example_inputs, inputs.forward)
        return {
            **file_costs(engine, path),
            **_latency(engine, path, inputs, reference),
            "macs": float(measured.weight_macs or measured.macs or 0),
            "parameters": float(measured.parameters),
        }


def file_costs(engine: Engine, path: Path) -> dict[str, float]:
    """The bytes of a file, and of a zip archive with it."""
    with tempfile.TemporaryDirectory() as folder:
        zipped = zip_files(engine.files(path), Path(folder) / "model.zip")
        return {"bytes": float(engine.bytes(path)), "zipped": float(zipped)}


def _latency(engine: Engine, path: Path, inputs: Inputs, reference: Path | None) -> dict[str, float]:
    if engine.untimed is not None:
        return {}
    files = {"it": path} if reference is None else {"it": path, "reference": reference}
    times = latencies({name: engine.open(each) for name, each in files.items()}, inputs.example_inputs, REPETITIONS)
    return {"latency": times["it"].median / (1.0 if reference is None else times["reference"].median)}


@dataclass
class CostTable:
    """Costs of mixtures over those of the dense model: those that were measured, and estimates of all others.

    An estimate is the product of what the single choices of a mixture cost, times what such products were off by in
    mixtures of the same stages that were measured.

    Attributes:
        dense: the costs of the dense model's file.
        measured: by the key of a mixture, its costs over the dense ones.
    """

    dense: Costs
    measured: dict[str, Costs] = field(default_factory=dict)
    _mixtures: dict[str, Mixture] = field(default_factory=dict)

    def add(self, mixture: Mixture, ratios: Costs) -> None:
        """Take a measurement into the table."""
        self.measured[mixture.key] = ratios
        self._mixtures[mixture.key] = mixture

    def ratios(self, mixture: Mixture) -> Costs:
        """Costs over the dense ones: as measured, or estimated."""
        known = self.measured.get(mixture.key)
        if known is not None:
            return known
        product, off = self._product(mixture), self._off(mixture)
        return {name: value * off.get(name, 1.0) for name, value in product.items()}

    def absolute(self, mixture: Mixture) -> dict[str, float]:
        """The same in the costs' own units."""
        ratios = self.ratios(mixture)
        return {name: self.dense[name] * ratios[name] for name in COSTS if name in ratios and name in self.dense}

    def error(self) -> dict[str, float]:
        """By cost, the median relative error of the products of single choices, over what was measured."""
        errors: dict[str, list[float]] = {}
        for key, mixture in self._mixtures.items():
            if len(mixture.choices) > 1:
                for name, value in self._product(mixture).items():
                    errors.setdefault(name, []).append(abs(value / max(self.measured[key][name], 1e-12) - 1))
        return {name: sorted(each)[len(each) // 2] for name, each in errors.items()}

    def _product(self, mixture: Mixture) -> dict[str, float]:
        singles = [self.measured.get(Mixture((choice,)).key, {}) for choice in mixture.choices]
        return {name: math.prod(each.get(name, 1.0) for each in singles) for name in self.dense}

    def _off(self, mixture: Mixture) -> dict[str, float]:
        """What products were off by, of mixtures of the same stages: geometric means."""
        alike = [one for one in self._mixtures.values() if _stages(one) == _stages(mixture) and len(one.choices) > 1]
        return {name: _geometric_mean(self._ratios_to_products(alike, name)) for name in self.dense} if alike else {}

    def _ratios_to_products(self, mixtures: Iterable[Mixture], name: str) -> list[float]:
        return [self.measured[one.key][name] / max(self._product(one)[name], 1e-12) for one in mixtures]


def _stages(mixture: Mixture) -> tuple[str, ...]:
    return tuple(choice.proposal.stage for choice in mixture.choices)


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(max(value, 1e-12)) for value in values) / len(values)) if values else 1.0
