"""Whether a decomposition pays: one that has more parameters, or runs slower, is not done."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.calling import call, evaluating
from paredown.framework.managed import Link
from paredown.framework.modifier import Modifier
from paredown.framework.training import Training

__all__ = ["layer_inputs", "slower_by_latency", "slower_by_rule"]

#: a decomposition to this share of the break-even rank is not worth its second kernel launch
WORTHWHILE = 0.8
ROUNDS = 9


def slower_by_rule(module: nn.Module, shape: tuple[int, int], rank: int) -> str | None:
    """Why two layers of this rank would be slower than one, by rule of thumb; None: they would not.

    The rank must be at most 0.8 of the break-even rank; a Linear needs 256 on both sides, a convolution 64 channels on
    both sides and 1.5 times fewer parameters.
    """
    rows, columns = shape
    break_even = rows * columns / (rows + columns)
    if rank > WORTHWHILE * break_even:
        return (
            f"rank {rank} would be slower: break-even is at {break_even:.0f}, and at most {WORTHWHILE:g} of that pays"
        )
    if isinstance(module, nn.Linear) and min(shape) < 256:
        return f"two layers would be slower than one with a side of {min(shape)}, below 256"
    if isinstance(module, nn.Conv2d):
        channels = min(module.in_channels, module.out_channels)
        if channels < 64:
            return f"two convolutions would be slower than one with {channels} channels, below 64"
        if break_even / rank < 1.5:
            return f"rank {rank} would be slower: a convolution needs 1.5 times fewer parameters"
    return None


def slower_by_latency(module: nn.Module, candidate: nn.Module, inputs: Tensor, min_speedup: float) -> str | None:
    """Why the candidate does not pay, measured side by side on the layer's own input; None: it does."""
    times: dict[nn.Module, list[float]] = {module: [], candidate: []}
    with torch.no_grad():
        for _ in range(ROUNDS):
            for layer, taken in times.items():
                taken.append(_seconds(layer, inputs))
    dense, decomposed = (statistics.median(taken[1:]) for taken in times.values())
    speedup = dense / decomposed
    if speedup >= min_speedup:
        return None
    return f"it would be slower than asked: {speedup:.2f}x of the speed was measured, min_speedup is {min_speedup:g}"


def layer_inputs(training: Training, modifier: Modifier, targets: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The first input of each target layer when the model runs on ``example_inputs``, in eval mode."""
    seen: dict[str, Tensor] = {}
    for name, module in targets.items():
        training.manage(modifier, module, _Keep(name, seen))
    try:
        with evaluating(training.model):
            call(training.model, training.example_inputs, None)
    finally:
        training.unmanage(modifier)
    return seen


def _seconds(layer: nn.Module, inputs: Tensor) -> float:
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    begin = time.perf_counter()
    layer(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - begin


class _Keep(Link):
    def __init__(self, name: str, seen: dict[str, Tensor]) -> None:
        self.name = name
        self.seen = seen

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if args:
            self.seen.setdefault(self.name, args[0].detach())
        return call(module, *args, **kwargs)
