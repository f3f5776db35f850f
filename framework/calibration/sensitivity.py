"""Sensitivity: how much the model suffers when one layer alone is treated, and settings chosen by that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paredown.framework.calibration.allocation import Option, allocate
from paredown.framework.distributed.processes import sum_of_all
from paredown.framework.errors import ScheduleError
from paredown.framework.model.batches import samples_in
from paredown.framework.model.graph.fusion import tensors_of
from paredown.framework.model.temporary import evaluating
from paredown.framework.modifier.fields import Trial
from paredown.framework.modifier.training import Training

__all__ = ["Choice", "Loss", "Sensitivity", "choose", "scan", "shown"]

#: of the model's output and the batch; a number, the mean over the batch's samples
Loss = Callable[[Any, Any], Any]
#: from the model's output and the batch: a scale, and what measures another output in it
Measure = Callable[[Any, Any], tuple[float, Callable[[Any], float]]]


@dataclass(frozen=True)
class Sensitivity:
    """What a trial did: ``error`` is the squared change of the model's output over the squared output, or the rise of
    the loss; 0 where nothing changed."""

    layer: str
    setting: Any
    unit: str
    cost: float
    whole: float
    error: float


@dataclass(frozen=True)
class Choice:
    """A setting for each layer, None where it is left alone, and the share of the whole cost that they save."""

    settings: dict[str, Any]
    saved: float


def scan(
    training: Training,
    trials: Sequence[Trial],
    samples: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    loss: Loss | None = None,
) -> list[Sensitivity]:
    """Run every trial on ``data``, over all processes.

    Args:
        trials: in the order of the result.
        samples: how much of the data is used; None: all.
        progress: called with (forwards done, forwards in all); the latter is a guess where the data has no length.
        loss: its rise is the error, negative where it falls; None: the change of the output is.
    """
    measure = _change if loss is None else _rise_of(loss)
    errors = torch.zeros(len(trials), dtype=torch.float64)
    whole, done = 0.0, 0
    batches = list(training.data.first(samples))
    with evaluating(training.model):
        for batch in batches:
            scale, compared = measure(training.data.call(batch), batch)
            whole += scale
            for place, trial in enumerate(trials):
                with trial.treated():
                    errors[place] += compared(training.data.call(batch))
                done += 1
                progress(done, len(batches) * len(trials))
    totals = sum_of_all(torch.cat([errors, torch.tensor([whole], dtype=torch.float64)]).to(training.device)).tolist()
    return [
        Sensitivity(trial.layer, trial.setting, trial.unit, trial.cost, trial.whole, error / max(totals[-1], 1e-300))
        for trial, error in zip(trials, totals[:-1], strict=True)
    ]


def choose(found: Sequence[Sensitivity], share: float) -> Choice:
    """Settings that save at least ``share`` of what the layers cost untreated, with little error in sum.

    Settings whose error is not finite are left out.

    Raises:
        ScheduleError: the settings that were tried save less; the message has what they save.
    """
    options = {each.layer: [Option(None, each.whole, 0.0)] for each in found}
    whole = sum(each[0].cost for each in options.values())
    for each in found:
        if math.isfinite(each.error):
            options[each.layer].append(Option(each.setting, each.cost, each.error))
    try:
        chosen = allocate(options, (1 - share) * whole + 1e-9 * whole)
    except ValueError:
        most = 1 - sum(min(option.cost for option in each) for each in options.values()) / whole
        raise ScheduleError(f"{share:g} cannot be met: the settings that were tried save {most:.4g} at most") from None
    saved = 1 - sum(option.cost for option in chosen.values()) / whole
    return Choice({layer: option.setting for layer, option in chosen.items()}, saved)


def shown(setting: Any, unit: str) -> str:
    """A setting as text.

    >>> shown(8, "bits"), shown(0.5, "% zeros")
    ('8 bits', '50% zeros')
    """
    return f"{100 * setting:.3g}{unit}" if unit.startswith("%") else f"{setting} {unit}"


def _change(plain: Any, batch: Any) -> tuple[float, Callable[[Any], float]]:
    """The squared change of the output, in the squared output."""
    parts = list(tensors_of(plain))
    power = sum(float(part.double().square().sum()) for part in parts if part.is_floating_point())
    return power, lambda changed: _squared_difference(parts, tensors_of(changed))


def _rise_of(loss: Loss) -> Measure:
    """The rise of the loss, in samples."""

    def rise(plain: Any, batch: Any) -> tuple[float, Callable[[Any], float]]:
        samples, before = samples_in(batch), float(loss(plain, batch))
        return float(samples), lambda changed: samples * (float(loss(changed, batch)) - before)

    return rise


def _squared_difference(plain: Iterable[Tensor], changed: Iterable[Tensor]) -> float:
    pairs = zip(plain, changed, strict=True)
    return sum(float((a.double() - b.double()).square().sum()) for a, b in pairs if a.is_floating_point())
