"""Measures latency: the median and the quartiles of a forward pass, of several models in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from paredown.framework.model.forward import Forward, call
from paredown.framework.model.temporary import buffers_kept, evaluating

__all__ = ["Latency", "measure_latency"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward: the median, and the quartiles around it."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ms ({self.low:.3g}-{self.high:.3g})"


def measure_latency(
    models: Mapping[str, nn.Module],
    example_inputs: Any,
    forward: Forward | None = None,
    *,
    repetitions: int = 30,
    warm_up: int = 3,
) -> dict[str, Latency]:
    """Time one eval forward of each model, in turns, so that a busy machine is unfair to none.

    Args:
        models: by a name of yours.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of named ones, on the models' device.
        forward: called as ``forward(model, example_inputs)`` where the above does not fit.
        repetitions: how often each is timed, 2 or more.
        warm_up: forwards before that.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    with evaluating(*models.values()), ExitStack() as kept:
        for model in models.values():
            kept.enter_context(buffers_kept(model))
        for turn in range(warm_up + repetitions):
            for name, model in models.items():
                start = time.perf_counter()
                call(model, example_inputs, forward)
                if torch.cuda.is_available() and any(p.is_cuda for p in model.parameters()):
                    torch.cuda.synchronize()
                if turn >= warm_up:
                    times[name].append((time.perf_counter() - start) * 1e3)
    return {name: _summary(values) for name, values in times.items()}


def _summary(milliseconds: list[float]) -> Latency:
    low, median, high = statistics.quantiles(milliseconds, n=4)
    return Latency(low, median, high)
