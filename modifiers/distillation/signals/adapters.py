"""Bringing a student's feature into the shape of its teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paredown.framework.errors import TargetError
from paredown.framework.modifier.training import Training

__all__ = ["Adapters", "ChannelMap", "pooled_alike"]

POOLS = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}
CONVOLUTIONS: dict[int, Any] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


class ChannelMap(nn.Linear):
    """A linear map of the channels, the second dimension, the same in each place: a Linear layer, or a 1x1 convolution
    (the regressor of FitNets, arXiv:1412.6550)."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 2:
            return super().forward(input)
        kernel = self.weight.reshape(*self.weight.shape, *[1] * (input.dim() - 2))
        mapped: Tensor = CONVOLUTIONS[input.dim()](input, kernel, self.bias)
        return mapped


class Adapters:
    """The adapters of one modifier: auxiliary modules, trained with it. They are built where they are first needed, or
    before from the layers' own widths, since a compiled graph cannot build them."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.maps: dict[str, ChannelMap] = {}

    def guess(self, key: str, student: nn.Module, teacher_model: nn.Module, teacher: nn.Module) -> None:
        """Build the adapter of a pair of layers from the widths of these or of layers before them."""
        own, other = _width(self.training.model, student), _width(teacher_model, teacher)
        if own is not None and other is not None and own != other:
            self._build(key, own, other)

    def fitted(self, key: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both features, (batch, channels, ...), in one shape: pooled to the smaller space, the student's adapted.

        Raises:
            TargetError: the numbers of dimensions differ, or a compiled graph needs an adapter that is not there.
        """
        student, teacher = pooled_alike(student, teacher)
        own, other = student.shape[1], teacher.shape[1]
        if own == other:
            return student, teacher
        known = self.maps.get(key)
        if known is None or (known.in_features, known.out_features) != (own, other):
            if torch.compiler.is_compiling():
                raise TargetError(
                    f"{self.training.name}: an adapter from {own} to {other} channels is needed and cannot be built "
                    "in a compiled forward: give modify(..., example_inputs=...)"
                )
            known = self._build(key, own, other)
        return known(student), teacher

    def _build(self, key: str, own: int, other: int) -> ChannelMap:
        made = self.training.modules.grow(key, lambda: ChannelMap(own, other), self.training.model)
        self.maps[key] = made
        return made


def pooled_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two features (batch, channels, *space), averaged over space to the smaller of both.

    Raises:
        TargetError: the numbers of dimensions differ.
    """
    if student.dim() != teacher.dim():
        raise TargetError(
            f"a feature of the shape {tuple(student.shape)} cannot be compared with one of {tuple(teacher.shape)}: "
            "pair layers whose features have as many dimensions"
        )
    if student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    smaller = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    pool: Any = POOLS[student.dim()]
    size = smaller[0] if len(smaller) == 1 else smaller
    return pool(student, size), pool(teacher, size)


def _width(model: nn.Module, layer: nn.Module) -> int | None:
    """The width of a layer's output: that of the last layer of a known width in or before it."""
    modules = list(model.modules())
    last = max(place for place, module in enumerate(modules) if any(module is part for part in layer.modules()))
    found = [_own_width(module) for module in modules[: last + 1]]
    return next((width for width in reversed(found) if width is not None), None)


def _own_width(layer: nn.Module) -> int | None:
    for name in ("out_channels", "out_features", "num_features"):
        if isinstance(getattr(layer, name, None), int):
            return int(getattr(layer, name))
    shape: Sequence[int] | None = getattr(layer, "normalized_shape", None)
    return shape[-1] if shape else None
