"""How much the model's output suffers when one layer alone is treated, for each of several settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paredown.framework.calling import evaluating
from paredown.framework.graph import tensors_of
from paredown.framework.modifier import Modifier
from paredown.framework.processes import sum_of_all
from paredown.framework.training import Training

__all__ = ["Sensitivity", "Trial", "scan"]


@dataclass(frozen=True)
class Trial:
    """One layer at one setting, a number of ``unit`` ("bits"): ``treated()`` is a context in which the model has it;
    ``cost`` as a modifier counts."""

    layer: str
    setting: Any
    unit: str
    cost: float
    treated: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Sensitivity:
    """What a trial did: the squared change of the model's output over the squared output, 0 where nothing changed."""

    layer: str
    setting: Any
    unit: str
    cost: float
    error: float


def scan(
    training: Training,
    modifier: Modifier,
    trials: Sequence[Trial],
    samples: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Sensitivity]:
    """Run every trial on ``data``, over all processes.

    Args:
        trials: in the order of the result.
        samples: how much of the data is used; None: all.
        progress: told (forwards done, forwards in all); the latter is a guess where the data has no length.
    """
    errors = torch.zeros(len(trials), dtype=torch.float64)
    power, done = 0.0, 0
    batches = list(training.batches(modifier, samples))
    with evaluating(training.model):
        for batch in batches:
            plain = tensors_of(training.call(batch))
            power += sum(float(part.double().square().sum()) for part in plain if part.is_floating_point())
            for place, trial in enumerate(trials):
                with trial.treated():
                    errors[place] += _squared_difference(plain, tensors_of(training.call(batch)))
                done += 1
                progress(done, len(batches) * len(trials))
    totals = sum_of_all(torch.cat([errors, torch.tensor([power], dtype=torch.float64)]).to(training.device)).tolist()
    return [
        Sensitivity(trial.layer, trial.setting, trial.unit, trial.cost, error / max(totals[-1], 1e-300))
        for trial, error in zip(trials, totals[:-1], strict=True)
    ]


def _squared_difference(plain: Iterable[Tensor], changed: Iterable[Tensor]) -> float:
    pairs = zip(plain, changed, strict=True)
    return sum(float((a.double() - b.double()).square().sum()) for a, b in pairs if a.is_floating_point())
