"""Second moments of layers' inputs: means of x x^T over calibration data, and their damped inverses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from paredown.framework.calibration.streaming import Unit, run_unit
from paredown.framework.distributed.processes import sum_of_all
from paredown.framework.errors import ScheduleError
from paredown.framework.model.kinds import LINEAR
from paredown.framework.modifier.training import Training

__all__ = [
    "WITH_COLUMNS",
    "SecondMoments",
    "damped_moments",
    "input_columns",
    "inverse_factor",
    "inverse_moments",
    "mean_squares",
    "refuse_not_finite_inputs",
    "second_moments",
]


#: the layers whose inputs have columns: see `input_columns`
WITH_COLUMNS = (*LINEAR, nn.Conv1d, nn.Conv2d)


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


def second_moments(training: Training, unit: Unit) -> Mapping[str, SecondMoments]:
    """Run a unit and give the second moments of its layers' inputs, by layer name, over all processes.

    Layers that are given the very same tensor share one. Only Linear, Conv1D, Conv1d and Conv2d; see `input_columns`.

    Raises:
        ScheduleError: inputs held NaN or infinity; names the layers.
    """
    sums = _Sums(_Products)
    run_unit(training, unit, sums.take)
    means = sums.means()
    refuse_not_finite_inputs(training.name, {name: each.matrix for name, each in means.items()})
    return means


def mean_squares(training: Training, unit: Unit) -> Mapping[str, Tensor]:
    """Run a unit and give the diagonals of `second_moments` alone, (groups, n) by layer name: the mean of x^2.

    Raises:
        ScheduleError: inputs held NaN or infinity; names the layers.
    """
    sums = _Sums(_Squares)
    run_unit(training, unit, sums.take)
    means = sums.means()
    refuse_not_finite_inputs(training.name, means)
    return means


def refuse_not_finite_inputs(owner: str, statistics: Mapping[str, Tensor]) -> None:
    """Raise ScheduleError, naming the layers, where what was gathered of their inputs is NaN or infinite."""
    spoiled = [name for name, each in statistics.items() if not bool(torch.isfinite(each).all())]
    if spoiled:
        raise ScheduleError(f"{owner}: what went into {', '.join(spoiled)} held NaN or infinity: look at the data")


def input_columns(module: nn.Module, x: Tensor) -> Tensor:
    """A layer's input as the vectors that its weight's rows are multiplied by: (groups, n, vectors), float32 or wider.

    Args:
        module: a Linear, Conv1D, Conv1d or Conv2d.
        x: (..., in_features), or (batch, in_channels, [height,] width).

    Raises:
        TypeError: another kind of layer.
    """
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    if isinstance(module, LINEAR):
        return x.reshape(1, -1, x.shape[-1]).transpose(1, 2)
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


class _Products:
    """Sums for `SecondMoments`."""

    def __init__(self, columns: Tensor) -> None:
        groups, n, _ = columns.shape
        self.matrix, self.mean = columns.new_zeros(groups, n, n), columns.new_zeros(groups, n)
        self.magnitude, self.count = self.mean.clone(), 0

    def add(self, columns: Tensor) -> None:
        self.matrix.baddbmm_(columns, columns.transpose(1, 2))
        self.mean.add_(columns.sum(2))
        self.magnitude.add_(columns.abs().sum(2))
        self.count += columns.shape[2]

    def means(self) -> SecondMoments:
        count = _count_of_all(self.count, self.mean)
        matrix, mean, magnitude = (
            sum_of_all(part).div_(max(count, 1)) for part in (self.matrix, self.mean, self.magnitude)
        )
        return SecondMoments(matrix, mean, magnitude, count)


class _Squares:
    """Sums of squares."""

    def __init__(self, columns: Tensor) -> None:
        self.squares, self.count = columns.new_zeros(columns.shape[:2]), 0

    def add(self, columns: Tensor) -> None:
        self.squares.add_(columns.square().sum(2))
        self.count += columns.shape[2]

    def means(self) -> Tensor:
        return sum_of_all(self.squares).div_(max(_count_of_all(self.count, self.squares), 1))


Gathered = TypeVar("Gathered", _Products, _Squares)


class _Sums(Generic[Gathered]):
    """Sums over the batches by layer, shared by layers that are given the same tensor."""

    def __init__(self, kind: type[Gathered]) -> None:
        self.start: type[Gathered] = kind
        self.own: dict[str, Gathered] = {}
        self.latest: tuple[Tensor, tuple[int, ...], Gathered] | None = None

    def take(self, name: str, module: nn.Module, x: Tensor) -> None:
        geometry = _geometry(module)
        if self.latest is not None and self.latest[0] is x and self.latest[1] == geometry:
            self.own[name] = self.latest[2]
            return
        columns = input_columns(module, x)
        if name not in self.own:
            self.own[name] = self.start(columns)
        self.own[name].add(columns)
        self.latest = x, geometry, self.own[name]

    def means(self) -> dict[str, Any]:
        """What `means` of each gives, over all processes."""
        done = {id(sums): sums.means() for sums in {id(each): each for each in self.own.values()}.values()}
        return {name: done[id(sums)] for name, sums in self.own.items()}


def _count_of_all(count: int, like: Tensor) -> int:
    return int(sum_of_all(torch.tensor(count, device=like.device)))


def _geometry(module: Any) -> tuple[Any, ...]:
    """What decides how an input becomes columns."""
    if isinstance(module, LINEAR):
        return ("linear",)
    names = ("kernel_size", "stride", "dilation", "groups", "padding_mode", "padding")
    return tuple(str(getattr(module, name)) for name in names)


MOST_DAMPING = 1e6


def damped_moments(moments: Tensor, damping: float) -> Tensor:
    """M + d mean(diag M) I, positive definite.

    Inputs that are always 0 get the mean moment. Where the matrix is not positive definite the damping grows tenfold.

    Args:
        moments: M, (n, n), symmetric.
        damping: d, not negative.
    """
    return _factored(moments, damping)[0]


def inverse_moments(moments: Tensor, damping: float) -> Tensor:
    """The inverse of `damped_moments`, (n, n)."""
    inverse: Tensor = torch.cholesky_inverse(_factored(moments, damping)[1])
    return inverse


def inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor U of the inverse of `damped_moments`: U^T U = (M + d mean(diag M) I)^-1."""
    upper: Tensor = torch.linalg.cholesky(inverse_moments(moments, damping), upper=True)
    return upper


def _factored(moments: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The damped matrix and its lower Cholesky factor; the identity where no damping helps."""
    diagonal = moments.diagonal()
    dead = diagonal <= 0
    mean = diagonal[~dead].mean() if bool((~dead).any()) else diagonal.new_ones(())
    while damping <= MOST_DAMPING:
        damped = moments + torch.diag(torch.where(dead, mean, damping * mean))
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return damped, lower
        damping = max(10 * damping, 1e-6)
    identity = torch.eye(len(moments)).to(moments)
    return identity, identity
