"""Operators that mix or pick positions, each channel by itself: sampling, patches, spectra, gathering, scattering."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Node

from paredown.framework.model.graph.trace import operator_name
from paredown.modifiers.pruning.removal.channels.elementwise import mixed_along
from paredown.modifiers.pruning.removal.channels.labels import Value, axes_of
from paredown.modifiers.pruning.removal.channels.walk import Result, Rule, Walk, meet, shape_of

__all__ = ["RULES"]

#: transforms along one dimension, the last unless it is named; along two; along all that are named
ONE = ("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft")
TWO = ("fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2")
MANY = ("fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn")


def _sampled(walk: Walk, node: Node) -> Result:
    """grid_sample: values at other positions, the same ones of each channel."""
    value, grid = walk.value(node.args[0]), walk.value(node.args[1])
    walk.labels.freeze_all([grid], f"{walk.where(node)} reads it as positions")
    return Value(shape_of(node), mixed_along(walk, node, value, range(2, len(value.shape)), "samples"))


def _patches(walk: Walk, node: Node) -> Result:
    """unfold: a channel becomes as many as a patch has positions, one after the other."""
    value = walk.value(node.args[0])
    channels = len(value.shape) - 3
    size = math.prod(node.args[1])  # type: ignore[arg-type]
    factors = mixed_along(walk, node, value, (channels + 1, channels + 2), "mixes")
    flat = [factor.flatten(channels + 1) for factor in factors]
    rows = [f if f.shape[channels] == 1 else f.repeat_interleave(size, channels) for f in flat]
    return Value(shape_of(node), tuple(rows))


def _image(walk: Walk, node: Node) -> Result:
    """fold: the positions of a patch become one channel again, and go together."""
    value = walk.value(node.args[0])
    channels = len(value.shape) - 2
    size = math.prod(node.args[2])  # type: ignore[arg-type]
    factors = []
    for factor in mixed_along(walk, node, value, [channels + 1], "mixes"):
        if factor.shape[channels] > 1:
            split = factor.unflatten(channels, (-1, size))  # type: ignore[no-untyped-call]
            factor = walk.labels.unite_along(split, [channels + 1]).squeeze(channels + 1)
        factors.append(factor.unsqueeze(-1))
    return Value(shape_of(node), tuple(factors))


def _transformed(walk: Walk, node: Node) -> Result:
    """Fourier transforms mix the dimensions along which they run."""
    value, name = walk.value(node.args[0]), operator_name(node)
    dimensions = len(value.shape)
    if name in ONE:
        axes: Sequence[int] = [int(walk.argument(node, 2, "dim", -1))]
    elif name in TWO:
        axes = walk.argument(node, 2, "dim", (-2, -1))
    else:
        axes = walk.argument(node, 2, "dim") or range(-len(walk.argument(node, 1, "s") or value.shape), 0)
    return Value(shape_of(node), _mixed(walk, node, value, axes, dimensions))


def _mixed(walk: Walk, node: Node, value: Value, axes: Iterable[int], dimensions: int) -> tuple[Tensor, ...]:
    return mixed_along(walk, node, value, [axis % dimensions for axis in axes], "runs over")


def _shifted(walk: Walk, node: Node) -> Result:
    value = walk.value(node.args[0])
    given: Any = walk.argument(node, 1, "dim")
    axes = [given] if isinstance(given, int) else list(given or range(len(value.shape)))
    return Value(value.shape, _mixed(walk, node, value, axes, len(value.shape)))


def _chosen(place: int) -> Rule:
    """Some of a dimension by their order: the dimension is argument ``place``, the last by default."""

    def rule(walk: Walk, node: Node) -> Result:
        value = walk.value(node.args[0])
        axis = int(walk.argument(node, place, "dim", -1)) % len(value.shape)
        factors = mixed_along(walk, node, value, [axis], "picks from")
        outputs = node.meta["val"]
        made = [_of_shape(tuple(part.shape), factors, axis)
                for part in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]  # fmt: skip
        return tuple(made) if isinstance(outputs, (tuple, list)) else made[0]

    return rule


def _of_shape(shape: tuple[int, ...], factors: Iterable[Tensor], axis: int) -> Value:
    return Value(shape, tuple(f if f.dim() == len(shape) else f.squeeze(axis) for f in factors))


def _gathered(walk: Walk, node: Node) -> Result:
    """gather: along one dimension by an index that may be each channel's own."""
    by_name = operator_name(node) == "take_along_dim"
    value, index = walk.value(node.args[0]), walk.value(node.args[1 if by_name else 2])
    axis = int(walk.argument(node, 2 if by_name else 1, "dim")) % len(value.shape)
    return _along(walk, node, axis, [value, index], shape_of(node))


def _scattered(walk: Walk, node: Node) -> Result:
    """scatter, index_add and the like: written along one dimension, each channel by itself."""
    value = walk.value(node.args[0])
    axis = int(walk.argument(node, 1, "dim")) % len(value.shape)
    others = [operand for operand in walk.operands(node)[1:] if len(operand.shape) == len(value.shape)]
    return _along(walk, node, axis, [value, *others], value.shape)


def _along(walk: Walk, node: Node, axis: int, operands: Iterable[Value], shape: Sequence[int]) -> Value:
    """What has the same place along all other dimensions goes together.

    An operand without labels (an index of fixed positions) is expanded to the others' size by the user's code.
    """
    narrowed = []
    for operand in operands:
        factors = mixed_along(walk, node, operand, [axis], "picks from")
        for factor in factors:
            if any(factor.shape[each] not in (1, shape[each]) for each in axes_of(factor)):
                walk.labels.freeze(factor, f"{walk.where(node)} takes a part of it")
        if factors:
            sizes = [1 if each == axis else size for each, size in enumerate(operand.shape)]
            narrowed.append(Value(tuple(sizes), factors))
    whole = [1 if each == axis else size for each, size in enumerate(shape)]
    return Value(tuple(shape), meet(walk.labels, narrowed, whole, walk.where(node)).factors)


def _as_parts(walk: Walk, node: Node) -> Result:
    """Complex numbers as pairs of real ones."""
    value = walk.value(node.args[0])
    return Value(shape_of(node), tuple(factor.unsqueeze(-1) for factor in value.factors))


def _from_parts(walk: Walk, node: Node) -> Result:
    value = walk.value(node.args[0])
    last = len(value.shape) - 1
    return Value(shape_of(node), tuple(f.squeeze(last) for f in mixed_along(walk, node, value, [last], "pairs")))


RULES: dict[str, Rule] = {
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), _sampled),
    "im2col": _patches,
    "col2im": _image,
    **dict.fromkeys(ONE + TWO + MANY, _transformed),
    **dict.fromkeys(("fft_fftshift", "fft_ifftshift"), _shifted),
    **dict.fromkeys(("topk", "kthvalue", "quantile", "nanquantile"), _chosen(2)),
    **dict.fromkeys(("cummax", "cummin", "mode", "nanmedian"), _chosen(1)),
    **dict.fromkeys(("gather", "take_along_dim"), _gathered),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill"), _scattered),
    "index_reduce": _scattered,
    "view_as_real": _as_parts,
    "view_as_complex": _from_parts,
}
