"""Which elements of a weight share a scale: views on which scales broadcast, and the shapes of scales.

A weight is given with its output channels first (`paredown.framework.model.weights.WeightLayout.rows`).

| granularity | view of a weight (out, ...), n weights an output channel | kept scale |
| --- | --- | --- |
| tensor | itself | 0-d |
| channel | itself | 1 in every dimension but the first |
| group | (out, n / g, g) | (out, n / g) |
| block | (out / a, a, n / b, b) | (out / a, n / b) |
"""

from __future__ import annotations

from torch import Tensor

from paredown.modifiers.quantization.numbers.scheme import WeightScheme

__all__ = ["kept_scale", "misfit", "spread", "view_for", "view_of"]


def misfit(shape: tuple[int, ...], scheme: WeightScheme) -> str | None:
    """Why a weight of that shape cannot be divided as the scheme asks, or None."""
    rows, columns = shape[0], _columns(shape)
    if scheme.group_size is not None and columns % scheme.group_size:
        return f"its {columns} weights an output channel are not divisible by group_size {scheme.group_size}"
    if scheme.block is not None and (rows % scheme.block[0] or columns % scheme.block[1]):
        return f"its {rows} x {columns} weights are not divisible into blocks of {scheme.block[0]} x {scheme.block[1]}"
    return None


def view_of(weight: Tensor, scheme: WeightScheme) -> tuple[Tensor, tuple[int, ...]]:
    """The view of a weight, and the dimensions of it that share a scale."""
    view = view_for(weight, scheme)
    if scheme.granularity == "group":
        return view, (2,)
    if scheme.granularity == "block":
        return view, (1, 3)
    return view, tuple(range(0 if scheme.granularity == "tensor" else 1, weight.dim()))


def view_for(tensor: Tensor, scheme: WeightScheme) -> Tensor:
    """Anything of a weight's shape (codes, gradients) in the form of its view."""
    if scheme.granularity == "group" and scheme.group_size is not None:
        return tensor.reshape(tensor.shape[0], -1, scheme.group_size)
    if scheme.granularity == "block" and scheme.block is not None:
        rows, columns = scheme.block
        return tensor.reshape(tensor.shape[0] // rows, rows, -1, columns)
    return tensor


def kept_scale(scale: Tensor, scheme: WeightScheme) -> Tensor:
    """A scale that was reduced with ``keepdim`` over a view, in the shape in which it is kept."""
    if scheme.granularity == "tensor":
        return scale.reshape(())
    if scheme.granularity == "group":
        return scale.squeeze(2)
    return scale.squeeze(3).squeeze(1) if scheme.granularity == "block" else scale


def spread(scale: Tensor, scheme: WeightScheme) -> Tensor:
    """A kept scale or zero point in the shape that broadcasts against the view."""
    if scheme.granularity == "group":
        return scale.unsqueeze(-1)
    return scale[:, None, :, None] if scheme.granularity == "block" else scale


def _columns(shape: tuple[int, ...]) -> int:
    columns = 1
    for size in shape[1:]:
        columns *= size
    return columns
