"""`adaround`: rounding each weight up or down is learned from the layer's own inputs."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict, model_validator
from torch import Tensor

from paredown.framework.calibration.second_moments import SecondMoments
from paredown.modifiers.quantization.layers.stored import Grid
from paredown.modifiers.quantization.numbers.scales import weight_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import spread, view_for
from paredown.modifiers.quantization.weight_reconstruction import WeightReconstruction

__all__ = ["Adaround", "adaround_weight"]

#: ends of the stretched sigmoid (Louizos et al., 2018, arXiv:1712.01312, as the paper takes them)
STRETCH = (-0.1, 1.1)
#: the paper's schedule: no regularisation in the first fifth, then an exponent that falls from 20 to 2
WARM_UP, STEEP, FLAT = 0.2, 20.0, 2.0


class Adaround(WeightReconstruction):
    """AdaRound (Nagel et al., 2020, arXiv:2004.10568): rounding up or down so that the layer's result changes least.

    For every weight a soft choice between the two neighbours on the grid is trained by Adam, and pressed to a hard one
    on the way (Eq. 21 to 24). The error of the layer's result, over all of the data, is a quadratic form of the
    inputs' second moments (Eq. 13), so that each of the ``iterations`` sees all of the data at no further cost. The
    model runs unit by unit, each on what the rounded ones before it give out. Zeros stay zeros.
    """

    example: ClassVar = {"weights": {"bits": 4}, "iterations": 100}

    type: Literal["adaround"] = "adaround"
    weights: WeightScheme = WeightScheme(bits=4, granularity="channel")
    """Width and grid of the weights."""
    iterations: Annotated[int, Strict(), Field(ge=10)] = 1000
    """Steps of Adam for a layer."""
    regularization: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] = 3.0
    """Weight of the term that makes the choices hard: a soft one costs that many times the error that rounding to the
    nearest brings for a weight. Less leaves choices soft, which end where rounding to the nearest puts them."""

    @model_validator(mode="after")
    def _integers(self) -> Adaround:
        if self.weights.format != "int":
            raise ValueError("adaround rounds to integers, up or down: format int")
        return self

    def reconstructed(self, weight: Tensor, moments: SecondMoments, scheme: WeightScheme) -> tuple[Tensor, Grid]:
        grid = Grid(*weight_parameters(weight, scheme))
        new = adaround_weight(weight, moments.matrix, grid, scheme, self.iterations, self.regularization)
        return new, grid


def adaround_weight(
    weight: Tensor,
    moments: Tensor,
    grid: Grid,
    scheme: WeightScheme,
    iterations: int = 1000,
    regularization: float = 3.0,
    learning_rate: float = 0.01,
) -> Tensor:
    """The weight on the grid that AdaRound learns, in the shape and type of ``weight``; integers only.

    Args:
        weight: (out, ...), n weights an output channel.
        moments: (groups, n, n), the second moments of the inputs.
        grid: scale and zero point, as kept.
        iterations, learning_rate: of Adam.
        regularization: as a share of the error of rounding to the nearest.
    """
    view = view_for(weight, scheme).detach().to(grid.scale.dtype)
    scale, zero_point = spread(grid.scale, scheme), spread(grid.zero_point, scheme)
    floor = (view / scale).floor()
    low, high = scheme.lowest - zero_point, scheme.highest - zero_point
    kept = view != 0
    choice = _inverse_of_soft((view / scale - floor).clamp(0.01, 0.99)).requires_grad_(True)

    def values(up: Tensor) -> Tensor:
        return (torch.clamp(floor + up, low, high) * scale * kept).reshape(weight.shape)

    with torch.no_grad():
        nearest = values((_soft(choice) >= 0.5).to(view.dtype))
        unit = _result_error(nearest - weight, moments).clamp(min=torch.finfo(view.dtype).tiny) / choice.numel()
    optimizer = torch.optim.Adam([choice], lr=learning_rate)
    for step in range(iterations):
        with torch.enable_grad():
            loss = _result_error(values(_soft(choice)) - weight, moments) / unit
            loss = loss + regularization * _softness(choice, step / iterations)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        learned = values((_soft(choice) >= 0.5).to(view.dtype))
        better = _result_error(learned - weight, moments) <= _result_error(nearest - weight, moments)
    return (learned if bool(better) else nearest).to(weight.dtype)


def _result_error(difference: Tensor, moments: Tensor) -> Tensor:
    """The mean squared change of the layer's result, summed over its channels: tr(D M D^T)."""
    rows = difference.reshape(moments.shape[0], -1, moments.shape[1])
    return (torch.bmm(rows, moments.to(rows.dtype)) * rows).sum()


def _soft(choice: Tensor) -> Tensor:
    return (torch.sigmoid(choice) * (STRETCH[1] - STRETCH[0]) + STRETCH[0]).clamp(0, 1)


def _inverse_of_soft(share: Tensor) -> Tensor:
    return torch.logit((share - STRETCH[0]) / (STRETCH[1] - STRETCH[0]))


def _softness(choice: Tensor, progress: float) -> Tensor:
    """Eq. 24: 1 - |2h - 1|^beta, summed; beta falls along a cosine."""
    if progress < WARM_UP:
        return choice.new_zeros(())
    late = (progress - WARM_UP) / (1 - WARM_UP)
    exponent = FLAT + 0.5 * (STEEP - FLAT) * (1 + math.cos(late * math.pi))
    return (1 - (2 * _soft(choice) - 1).abs().pow(exponent)).sum()
