"""Measures latency: the median and the quartiles of a forward pass, of several models in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from paredown.framework.model.forward import Forward, call
from paredown.framework.model.temporary import buffers_kept, evaluating

__all__ = ["Latency", "measure_latency"]

#: seconds that one measurement takes at least, and in ticks of the clock: a short forward is repeated within it
SHORTEST, TICKS = 2e-4, 10


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
    """Time one eval forward of each model, in turns.

    On the CPU it is the processor time of one thread (`time.thread_time`), which other processes on the machine hardly
    change: torch computes in one thread meanwhile. On an accelerator it is wall-clock time, until the device is done.

    Args:
        models: by a name of yours; all on the same device.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of named ones, on the models' device.
        forward: called as ``forward(model, example_inputs)`` where the above does not fit.
        repetitions: how often each is timed, 2 or more; short forwards are timed several in a row, 0.2 ms together.
        warm_up: measurements before that, 1 or more.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    counts = dict.fromkeys(models, 1)
    with evaluating(*models.values()), ExitStack() as kept:
        for model in models.values():
            kept.enter_context(buffers_kept(model))
        clock = kept.enter_context(_clock(models.values()))
        for turn in range(warm_up + repetitions):
            for name, model in models.items():
                start = clock()
                for _ in range(counts[name]):
                    call(model, example_inputs, forward)
                seconds = (clock() - start) / counts[name]
                if turn < warm_up:
                    counts[name] = max(counts[name], _enough(seconds))
                else:
                    times[name].append(seconds * 1e3)
    return {name: _summary(values) for name, values in times.items()}


def _enough(seconds: float) -> int:
    """How many forwards that take so long each the clock can time."""
    tick = time.get_clock_info("thread_time").resolution
    return math.ceil(max(SHORTEST, TICKS * tick) / max(seconds, tick))


@contextmanager
def _clock(models: Iterable[nn.Module]) -> Iterator[Callable[[], float]]:
    """What tells the seconds: the processor time of the only thread, or the wall clock of a device that is done."""
    if any(parameter.device.type not in ("cpu", "meta") for model in models for parameter in model.parameters()):
        yield _accelerator_time
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield time.thread_time
    finally:
        torch.set_num_threads(threads)


def _accelerator_time() -> float:
    torch.accelerator.synchronize()
    return time.perf_counter()


def _summary(milliseconds: list[float]) -> Latency:
    low, median, high = statistics.quantiles(milliseconds, n=4)
    return Latency(low, median, high)
