"""Which layers of a model are faster in CSR: what stands against it, and what was measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from paredown.framework.distributed.shards import is_sharded
from paredown.framework.model.fused_layers import bypass_reason
from paredown.framework.model.links import Link, base_class, links_of
from paredown.framework.model.read_layers import weight_is_read
from paredown.framework.model.weights import COMPUTED, tied_to
from paredown.integrations.sparse.layers import DTYPES, POINTWISE, is_sparse, mostly_zeros, put_sparse_
from paredown.integrations.sparse.rows import SparseRows, sparse_rows

__all__ = ["Trial", "fault", "in_turns"]

Act = Callable[[], object]
#: how often each alternative is measured, and the seconds of all turns together after which that is enough
TURNS, LEAST_TURNS, ENOUGH = 15, 5, 0.5
#: seconds that one measurement takes at least: short forwards are repeated within it
SHORTEST = 2e-4


def fault(model: nn.Module, name: str, layer: Any) -> str | None:
    """Why a layer cannot be converted, or cannot gain; None: it is worth measuring."""
    if is_sparse(layer):
        return "it is converted already"
    return _structure(layer) or _tensor(layer._parameters.get("weight")) or _neighbours(model, name, layer)


def _structure(layer: Any) -> str | None:
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *POINTWISE)
    kind = next((kind for kind in kinds if isinstance(layer, kind)), None)
    if kind is None or (kind is not nn.Linear and (set(layer.kernel_size) != {1} or layer.groups != 1)):
        return "torch has sparse products for linear layers and 1x1 convolutions without groups alone"
    if kind is not nn.Linear and set(layer.padding) != {0}:
        return "it pads its inputs"
    if any(link.permanent for link in links_of(layer)):
        return "it is quantized: its sparse weight would be the one that was rounded"
    if links_of(layer):
        return "a manager acts on it: finalize or release it first"
    if base_class(layer).forward is not kind.forward or "forward" in vars(layer):
        return f"this {base_class(layer).__name__} has a forward of its own"
    return None


def _tensor(weight: Any) -> str | None:
    if weight is None:
        return COMPUTED
    if is_sharded(weight):
        return "its weight is spread over processes"
    if weight.device.type != "cpu":
        return f"its weight is on {weight.device}, and the kernels are those of the CPU"
    if weight.dtype not in DTYPES:
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}, and the kernels take float32 and float64"
    return None if mostly_zeros(weight) else "half of its weights or more are no zeros: CSR would be the larger form"


def _neighbours(model: nn.Module, name: str, layer: nn.Module) -> str | None:
    bypassed = bypass_reason(model, name)
    if bypassed is not None:
        return bypassed
    if weight_is_read(model, name):
        return "the code of a module above it reads its weight"
    other = tied_to(model, name)
    return None if other is None else f"it shares a parameter with {other}"


@dataclass
class Trial(Link):
    """Measures a layer whenever it is called, dense and in CSR; what it computes stays the same.

    Attributes:
        weight: of the layer, in CSR.
        seconds: of a forward in both forms, of all calls together; None: it was not called.
    """

    weight: SparseRows
    seconds: tuple[float, float] | None = None

    @classmethod
    def of(cls, layer: Any) -> Trial:
        """For a layer."""
        return cls(sparse_rows(layer.weight))

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        layer: Any = module
        sparse = _twin(layer, self.weight)
        dense, fewer = in_turns([lambda: call(layer, *args, **kwargs), lambda: sparse(*args, **kwargs)])
        before = self.seconds or (0.0, 0.0)
        self.seconds = before[0] + dense, before[1] + fewer
        return call(module, *args, **kwargs)


def _twin(layer: nn.Module, weight: SparseRows) -> nn.Module:
    """The layer as it would be converted; it shares everything but its weight."""
    twin: nn.Module = object.__new__(base_class(layer))
    vars(twin).update({key: value.copy() if isinstance(value, dict) else value for key, value in vars(layer).items()})
    put_sparse_(twin, weight)
    return twin


def in_turns(acts: Sequence[Act], prepare: Sequence[Act] = ()) -> list[float]:
    """Seconds of each act: medians, measured in turns.

    With one thread it is that thread's CPU time, which other programs disturb little; with several, wall-clock time.

    Args:
        prepare: called before each measurement of an act, and not measured.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    found: list[list[float]] = [[] for _ in acts]
    counts = [1] * len(acts)
    begin = time.perf_counter()
    for turn in range(TURNS + 1):
        for number, act in enumerate(acts):
            if prepare:
                prepare[number]()
            seconds = _seconds(act, counts[number], clock)
            if turn == 0:  # of warming up
                counts[number] = max(1, round(SHORTEST / max(seconds, 1e-7)))
            else:
                found[number].append(seconds)
        if turn >= LEAST_TURNS and time.perf_counter() - begin > ENOUGH:
            break
    return [statistics.median(each) for each in found]


def _seconds(act: Act, count: int, clock: Callable[[], float]) -> float:
    begin = clock()
    for _ in range(count):
        act()
    return (clock() - begin) / count
