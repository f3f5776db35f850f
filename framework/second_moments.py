"""The second moments of what goes into layers: sums of x x^T over calibration data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier import Modifier
from paredown.framework.processes import sum_of_all
from paredown.framework.streaming import InputTaker, Unit
from paredown.framework.targets import named_modules
from paredown.framework.training import Training

__all__ = ["SecondMoments", "input_columns", "refuse_not_finite_inputs", "second_moments"]


@dataclass
class SecondMoments:
    """Of the inputs of one layer.

    ``matrix`` is (groups, n, n), the mean of x x^T over samples and positions, where n counts the weights of an output
    channel; ``mean`` (groups, n) of x, ``magnitude`` (groups, n) of abs(x); ``count`` the number of x.
    """

    matrix: Tensor
    mean: Tensor
    magnitude: Tensor
    count: int


def second_moments(training: Training, modifier: Modifier, unit: Unit) -> Mapping[str, SecondMoments]:
    """Run a unit and give the second moments of its layers' inputs, by layer name, over all processes.

    Layers that are given the very same tensor share one. Only Linear, Conv1d and Conv2d; see `input_columns`.

    Raises:
        ScheduleError: inputs held NaN or infinity; names the layers.
    """
    modules = named_modules(training.model)
    sums = _Sums()
    for name in unit.layers:
        module = modules[name]
        training.manage(modifier, module, InputTaker(functools.partial(sums.take, name, module)))
    try:
        unit.run()
    finally:
        training.unmanage(modifier, only=lambda link: isinstance(link, InputTaker))
    means = sums.means()
    refuse_not_finite_inputs(modifier, {name: each.matrix for name, each in means.items()})
    return means


def refuse_not_finite_inputs(modifier: Modifier, statistics: Mapping[str, Tensor]) -> None:
    """Raise ScheduleError, naming the layers, where what was gathered of their inputs is NaN or infinite."""
    spoiled = [name for name, each in statistics.items() if not bool(torch.isfinite(each).all())]
    if spoiled:
        raise ScheduleError(
            f"{modifier.name}: what went into {', '.join(spoiled)} held NaN or infinity: look at the data"
        )


def input_columns(module: nn.Module, x: Tensor) -> Tensor:
    """A layer's input as the vectors that its weight's rows are multiplied by: (groups, n, vectors), float32 or wider.

    Args:
        module: a Linear, Conv1d or Conv2d.
        x: (..., in_features), or (batch, in_channels, [height,] width).

    Raises:
        TypeError: another kind of layer.
    """
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    if isinstance(module, nn.Linear):
        return x.reshape(1, -1, module.in_features).transpose(1, 2)
    if not isinstance(module, (nn.Conv1d, nn.Conv2d)):
        raise TypeError(f"no columns of a {type(module).__name__}")
    columns = _unfolded(module, x if x.dim() == module.weight.dim() else x.unsqueeze(0))
    batch, _, positions = columns.shape
    by_group = columns.reshape(batch, module.groups, -1, positions)
    return by_group.permute(1, 2, 0, 3).reshape(module.groups, by_group.shape[2], -1)


def _unfolded(module: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """(batch, in_channels x kernel, positions)."""
    conv: Any = module
    pads = conv._reversed_padding_repeated_twice
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = nn.functional.pad(x, pads, mode=mode) if any(pads) else x
    kernel, dilation, stride = conv.kernel_size, conv.dilation, conv.stride
    if len(kernel) == 1:
        x, kernel, dilation, stride = x.unsqueeze(2), (1, *kernel), (1, *dilation), (1, *stride)
    return nn.functional.unfold(x, kernel, dilation, 0, stride)


class _Sums:
    """Sums over the batches, shared by layers that are given the same tensor."""

    def __init__(self) -> None:
        self.own: dict[str, SecondMoments] = {}
        self.latest: tuple[Tensor, tuple[int, ...], SecondMoments] | None = None

    def take(self, name: str, module: nn.Module, x: Tensor) -> None:
        geometry = _geometry(module)
        if self.latest is not None and self.latest[0] is x and self.latest[1] == geometry:
            self.own[name] = self.latest[2]
            return
        columns = input_columns(module, x)
        sums = self.own.get(name)
        if sums is None:
            groups, n, _ = columns.shape
            empty = columns.new_zeros(groups, n)
            sums = self.own[name] = SecondMoments(columns.new_zeros(groups, n, n), empty, empty.clone(), 0)
        sums.matrix.baddbmm_(columns, columns.transpose(1, 2))
        sums.mean.add_(columns.sum(2))
        sums.magnitude.add_(columns.abs().sum(2))
        sums.count += columns.shape[2]
        self.latest = x, geometry, sums

    def means(self) -> dict[str, SecondMoments]:
        """The sums of all processes, divided by the count."""
        done: dict[int, SecondMoments] = {}
        for sums in self.own.values():
            if id(sums) not in done:
                count = int(sum_of_all(torch.tensor(sums.count, device=sums.mean.device)))
                matrix, mean, magnitude = (
                    sum_of_all(part).div_(max(count, 1)) for part in (sums.matrix, sums.mean, sums.magnitude)
                )
                done[id(sums)] = SecondMoments(matrix, mean, magnitude, count)
        return {name: done[id(sums)] for name, sums in self.own.items()}


def _geometry(module: Any) -> tuple[Any, ...]:
    """What decides how an input becomes columns."""
    if isinstance(module, nn.Linear):
        return ("linear",)
    names = ("kernel_size", "stride", "dilation", "groups", "padding_mode", "padding")
    return tuple(str(getattr(module, name)) for name in names)
