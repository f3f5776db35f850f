"""`half_quadratic`: grids that fit a weight's bulk, without any data."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.targets import named_modules
from paredown.framework.training import Training
from paredown.modifiers.quantization.post_training import PostTrainingQuantization
from paredown.modifiers.quantization.quantized_layers import Grid, QuantizedLayers
from paredown.modifiers.quantization.scales import SHRINKING, affine_parameters, weight_parameters
from paredown.modifiers.quantization.scheme import WeightScheme
from paredown.modifiers.quantization.weight_layout import kept_scale, view_of

__all__ = ["HalfQuadratic", "half_quadratic_grid"]

#: the authors' defaults: exponent of the norm, weight of the quadratic term and its growth, most iterations
NORM, PENALTY, GROWTH, ITERATIONS = 0.7, 10.0, 1.01, 20


class HalfQuadratic(PostTrainingQuantization):
    """Half-quadratic quantization (Badri & Shaji, 2023, "HQQ"): the grid that leaves the least sparse-robust error.

    The zero point (of an affine scheme) or the scale (of a symmetric one) is what minimises the sum of |error|^0.7,
    which forgives outliers and fits the bulk; the half-quadratic solver alternates a shrinkage of the errors with the
    closed form of the grid. It needs no data and takes seconds where ``gptq`` takes minutes. The zero point is an
    integer in the end, so that zeros stay zeros.
    """

    example: ClassVar = {"weights": {"bits": 4}}
    kinds: ClassVar = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)

    type: Literal["half_quadratic"] = "half_quadratic"
    weights: WeightScheme = WeightScheme(bits=4, granularity="group", group_size=128, symmetric=False)
    """Width and grid of the weights; affine by default."""

    def on_update(self, training: Training, state: QuantizedLayers) -> None:
        modules = named_modules(training.model)
        for name, schemes in self.schemes_of(training, state).items():
            if schemes.weights is not None:
                weight = modules[name].get_parameter("weight").detach()
                state.grids[f"{name}.weight"] = half_quadratic_grid(weight, schemes.weights)
        self.attach_weights(training, state)
        super().on_update(training, state)


def half_quadratic_grid(weight: Tensor, scheme: WeightScheme) -> Grid:
    """Scale and zero point, as kept, of least error in the 0.7-norm; from the scheme's own grid on, and never worse."""
    start = Grid(*weight_parameters(weight, scheme))
    if scheme.format != "int" or not weight.numel():
        return start
    view, shared = view_of(weight, scheme)
    view = view if view.dtype == torch.float64 else view.float()
    scale, zero_point = _first_grid(view, shared, scheme)
    best, error = (scale, zero_point), _error(view, scale, zero_point, shared, scheme)
    exact, penalty = zero_point.to(view.dtype), PENALTY
    for _ in range(ITERATIONS):
        codes = (view / scale + exact).round_().clamp_(scheme.lowest, scheme.highest)
        sparse = _shrunken(view - scale * (codes - exact), penalty)
        if scheme.symmetric:
            overlap = ((view - sparse) * codes).sum(shared, keepdim=True)
            fitted = overlap / codes.square().sum(shared, keepdim=True).clamp(min=1)
            scale = torch.where(fitted > 0, fitted, scale)
        else:
            exact = (codes - (view - sparse) / scale).mean(shared, keepdim=True)
        zero_point = exact.round().clamp(scheme.lowest, scheme.highest) if not scheme.symmetric else exact
        new = _error(view, scale, zero_point, shared, scheme)
        better = new < error
        best = torch.where(better, scale, best[0]), torch.where(better, zero_point.int(), best[1])
        error, penalty = torch.minimum(new, error), penalty * GROWTH
    return Grid(kept_scale(best[0], scheme), kept_scale(best[1], scheme))


def _first_grid(view: Tensor, shared: tuple[int, ...], scheme: WeightScheme) -> tuple[Tensor, Tensor]:
    """That of the extremes; a symmetric one is shrunken first, since the solver finds the nearest optimum only."""
    low, high = view.amin(shared, keepdim=True), view.amax(shared, keepdim=True)
    best = affine_parameters(low, high, scheme)
    if not scheme.symmetric:
        return best
    least = _error(view, *best, shared, scheme)
    for share in SHRINKING:
        grid = affine_parameters(low * share, high * share, scheme)
        error = _error(view, *grid, shared, scheme)
        best = torch.where(error < least, grid[0], best[0]), grid[1]
        least = torch.minimum(error, least)
    return best


def _error(view: Tensor, scale: Tensor, zero_point: Tensor, shared: tuple[int, ...], scheme: WeightScheme) -> Tensor:
    codes = (view / scale + zero_point).round_().clamp_(scheme.lowest, scheme.highest)
    return (view - scale * (codes - zero_point)).abs_().pow_(NORM).sum(shared, keepdim=True)


def _shrunken(error: Tensor, penalty: float) -> Tensor:
    """The generalised soft threshold of the p-norm (HQQ, Eq. 5)."""
    magnitude = error.abs()
    less = magnitude.clamp(min=1e-12).pow(NORM - 1) / penalty
    return error.sign() * (magnitude - less).clamp_(min=0)
