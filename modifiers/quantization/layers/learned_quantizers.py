"""Quantizers whose scales an optimizer trains (LSQ, arXiv:1902.08153; LSQ+, arXiv:2004.09576)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.model.weights import WeightLayout
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, Place, WeightQuantizer
from paredown.modifiers.quantization.layers.stored import Grid
from paredown.modifiers.quantization.numbers.scales import affine_parameters, stored_scale
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme, QuantizationScheme, WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import kept_scale, spread, view_for, view_of

__all__ = ["LearnedActivationQuantizer", "LearnedWeightQuantizer", "first_scale", "learned_round"]


def learned_round(
    x: Tensor, scale: Tensor, zero_point: Tensor, scheme: QuantizationScheme, gradient_scale: float
) -> Tensor:
    """S (clamp(round(x / S + round(Z))) - round(Z)), differentiable in ``x``, S and Z.

    The gradient in S is Eq. 3 of LSQ, that in Z is -S where ``x`` is clipped, both times ``gradient_scale``.

    Args:
        x: any shape; S and Z broadcast against it.
        gradient_scale: 1 / sqrt(values that share the scale x largest integer).
    """
    settings = scheme.lowest, scheme.highest, gradient_scale
    result: Tensor = _LearnedRound.apply(x, scale, zero_point, *settings)  # type: ignore[no-untyped-call]
    return result


def first_scale(magnitude: Tensor, scheme: QuantizationScheme) -> Tensor:
    """2 E|x| / sqrt(Q) (LSQ, section 2.1), never 0."""
    scale = 2 * magnitude / math.sqrt(scheme.highest)
    return scale.clamp(min=torch.finfo(scale.dtype).tiny * 1e6)


class _LearnedRound(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, lowest: int, highest: int, gradient_scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.settings = lowest, highest, gradient_scale
        whole = zero_point.round()
        integers: Tensor = (x / scale + whole).round_().clamp_(lowest, highest)
        values: Tensor = integers.sub_(whole).mul_(scale).to(x.dtype)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        lowest, highest, gradient_scale = ctx.settings
        whole = zero_point.round()
        exact = x / scale + whole
        inside = (exact >= lowest) & (exact <= highest)
        integers = exact.round().clamp_(lowest, highest)
        by_scale = torch.where(inside, integers - exact, integers - whole).mul_(grad).mul_(gradient_scale)
        by_zero = torch.where(inside, torch.zeros_like(exact), -scale * grad).mul_(gradient_scale)
        return (
            torch.where(inside, grad, torch.zeros_like(grad)),
            by_scale.sum_to_size(scale.shape).to(scale.dtype),
            by_zero.sum_to_size(zero_point.shape).to(zero_point.dtype),
            None,
            None,
            None,
        )


class LearnedWeightQuantizer(WeightQuantizer):
    """Quantizes weights with trained scales; a copy of the module has them in its buffers and learns no more.

    Args:
        learned: by the weight's name, as kept.
    """

    def __init__(
        self, scheme: WeightScheme, names: tuple[str, ...], layout: WeightLayout, learned: Mapping[str, Grid]
    ) -> None:
        super().__init__(scheme, names, layout, fixed=True)
        self.learned = learned

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "learned": {}}

    def grid(self, module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().grid(module, name)
        return stored_scale(scale, self.scheme), zero_point

    def quantized(self, module: nn.Module, name: str) -> Tensor:
        if name not in self.learned:
            return super().quantized(module, name)
        weight: Any = module._parameters[name]
        rows, grid = self.layout.rows(weight), self.learned[name]
        view = view_for(rows, self.scheme)
        scale, zero_point = spread(_stored(grid.scale, self.scheme), self.scheme), spread(grid.zero_point, self.scheme)
        sharing = view.numel() / max(grid.scale.numel(), 1)
        new = learned_round(view, scale, zero_point, self.scheme, (sharing * self.scheme.highest) ** -0.5)
        return self.layout.kept(new.reshape(rows.shape))


def _stored(scale: Tensor, scheme: WeightScheme) -> Tensor:
    """A scale as it is stored; the gradient passes. No addition, which would count among those of the forward."""
    rounded = stored_scale(scale, scheme)
    return scale if rounded is scale else scale - (scale - rounded).detach()


class LearnedActivationQuantizer(ActivationQuantizer):
    """Quantizes an input or output with a trained scale, which the first training batch sets.

    Args:
        learned: scale and zero point, 0-d; a scale of 0 stands for none yet.
    """

    def __init__(self, scheme: ActivationScheme, place: Place, learned: Grid) -> None:
        super().__init__(scheme, place)
        self.learned: Grid | None = learned

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "learned": None}

    @property
    def idle_in_eval_mode(self) -> bool:
        return self.learned is not None and not bool(self.learned.scale > 0)

    def treated(self, x: Tensor, module: nn.Module) -> Tensor:
        if self.learned is None or not x.numel():
            return super().treated(x, module)
        if module.training:
            self._begin(x, module, self.learned)
        scale = self.learned.scale
        known = torch.where(scale > 0, scale, torch.ones_like(scale))
        features = x[0].numel() if x.dim() > 1 else x.numel()
        gradient_scale = (features * self.scheme.highest) ** -0.5
        new = learned_round(x, known, self.learned.zero_point, self.scheme, gradient_scale)
        return torch.where(scale > 0, new, x)

    def _begin(self, x: Tensor, module: nn.Module, learned: Grid) -> None:
        """Set scale and zero point where they are not set yet."""
        with torch.no_grad():
            scale, zero_point = affine_parameters(*x.detach().aminmax(), self.scheme)
            if self.scheme.symmetric:
                scale = first_scale(x.detach().abs().float().mean(), self.scheme)
            unknown = learned.scale <= 0
            learned.zero_point.copy_(torch.where(unknown, zero_point, learned.zero_point))
            learned.scale.copy_(torch.where(unknown, scale, learned.scale))


def first_weight_scale(rows: Tensor, scheme: WeightScheme) -> Tensor:
    """`first_scale` of a weight, output channels first, in the shape in which scales are kept."""
    view, shared = view_of(rows.detach(), scheme)
    magnitude = view.abs().mean(shared, keepdim=True) if shared else view.abs()
    return kept_scale(first_scale(magnitude if magnitude.dtype == torch.float64 else magnitude.float(), scheme), scheme)
