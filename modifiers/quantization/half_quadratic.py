"""`half_quadratic`: zero points that fit a weight's bulk, without any data."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from paredown.framework.model.kinds import CONVOLUTIONS, LINEAR
from paredown.framework.model.targets import named_modules
from paredown.framework.model.weights import weight_rows
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.stored import Grid, QuantizedLayers
from paredown.modifiers.quantization.numbers.scales import affine_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import kept_scale, view_of
from paredown.modifiers.quantization.post_training import PostTrainingQuantization

__all__ = ["AffineWeightScheme", "HalfQuadratic", "half_quadratic_grid"]

#: the authors' defaults: exponent of the norm, weight of the quadratic term and its growth, most iterations
NORM, PENALTY, GROWTH, ITERATIONS = 0.7, 10.0, 1.01, 20


class AffineWeightScheme(WeightScheme):
    """How weights are quantized: integers with a zero point; by default 4 bits in groups."""

    symmetric: bool = False
    """Not symmetric: the zero point is what is fitted."""

    @model_validator(mode="after")
    def _has_a_zero_point(self) -> AffineWeightScheme:
        if self.symmetric:
            raise ValueError("half_quadratic fits the zero point, and a symmetric grid has none: symmetric: false")
        return self


class HalfQuadratic(PostTrainingQuantization):
    """Half-quadratic quantization (HQQ, Badri & Shaji, 2023): zero points that leave the least sum of |error|^0.7.

    That norm forgives outliers and fits the bulk of the weights. The half-quadratic solver alternates a shrinkage of
    the errors with the mean that is then the best zero point (the authors' Eq. 5 to 8); the scale stays that of the
    extremes. It needs no data and takes seconds where ``gptq`` takes minutes.

    The zero points are real numbers, not integers: ONNX and the Hugging Face format cannot hold them, so such a model
    runs in PyTorch only. Where weights that share one hold a zero it is an integer, so that zeros stay zeros.
    """

    example: ClassVar = {"weights": {"bits": 4}}
    kinds: ClassVar = (*LINEAR, *CONVOLUTIONS, nn.Embedding)
    chooses: ClassVar = True

    type: Literal["half_quadratic"] = "half_quadratic"
    weights: AffineWeightScheme = AffineWeightScheme(bits=4, granularity="group", group_size=128)
    """Width and grid of the weights."""

    def on_update(self, training: Training, state: QuantizedLayers) -> None:
        modules = named_modules(training.model)
        for name, schemes in self.schemes_of(training, state).items():
            if schemes.weights is not None:
                state.grids[f"{name}.weight"] = half_quadratic_grid(weight_rows(modules[name]), schemes.weights)
        self.attach_weights(training, state)
        super().on_update(training, state)


def half_quadratic_grid(weight: Tensor, scheme: WeightScheme) -> Grid:
    """Scale and real zero point, as kept, of little error in the 0.7-norm; never worse than those of the extremes.

    Args:
        weight: any shape that the scheme can divide, output channels first.
        scheme: affine integers.
    """
    view, shared = view_of(weight, scheme)
    view = view if view.dtype == torch.float64 else view.float()
    if not view.numel() or not shared:
        low = high = view
    else:
        low, high = view.amin(shared, keepdim=True), view.amax(shared, keepdim=True)
    scale, whole = affine_parameters(low, high, scheme)
    zero_point = best = whole.to(view.dtype)
    least, penalty = _error(view, scale, best, shared, scheme), PENALTY
    for _ in range(ITERATIONS):
        codes = _codes(view, scale, zero_point, scheme)
        sparse = _shrunken(view - scale * (codes - zero_point), penalty)
        zero_point = (codes - (view - sparse) / scale).mean(shared, keepdim=True)
        error = _error(view, scale, zero_point, shared, scheme)
        best = torch.where(error < least, zero_point, best)
        least, penalty = torch.minimum(error, least), penalty * GROWTH
    holds_zeros = (view == 0).any(dim=shared, keepdim=True) if shared else view == 0
    best = torch.where(holds_zeros, whole.to(view.dtype), best)
    return Grid(kept_scale(scale, scheme), kept_scale(best, scheme))


def _codes(view: Tensor, scale: Tensor, zero_point: Tensor, scheme: WeightScheme) -> Tensor:
    return (view / scale + zero_point).round_().clamp_(scheme.lowest, scheme.highest)


def _error(view: Tensor, scale: Tensor, zero_point: Tensor, shared: tuple[int, ...], scheme: WeightScheme) -> Tensor:
    values = scale * (_codes(view, scale, zero_point, scheme) - zero_point)
    return (view - values).abs_().pow_(NORM).sum(shared, keepdim=True)


def _shrunken(error: Tensor, penalty: float) -> Tensor:
    """The generalised soft threshold of the p-norm."""
    magnitude = error.abs()
    less = magnitude.clamp(min=1e-12).pow(NORM - 1) / penalty
    return error.sign() * (magnitude - less).clamp_(min=0)
