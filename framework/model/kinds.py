"""Kinds of layers: convolutions, by the number of axes that their kernels move over and all together; Conv1D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["CONVOLUTIONS", "CONVOLUTION_BY_AXES", "LINEAR", "TRANSPOSED", "TRANSPOSED_BY_AXES", "Conv1D"]


class _ByStructure(type):
    """What is an instance is decided by the object's structure, so that the package that defines it is not imported."""

    def __instancecheck__(cls, instance: Any) -> bool:
        named = any(kind.__name__ == cls.__name__ for kind in type(instance).__mro__)
        return named and isinstance(instance, nn.Module) and isinstance(getattr(instance, "nf", None), int)


class Conv1D(nn.Module, metaclass=_ByStructure):
    """transformers' Conv1D (GPT-2): a linear layer whose weight is (inputs, outputs), with ``nf`` outputs.

    ``isinstance`` knows the layers of that name, wherever their class comes from.
    """


CONVOLUTION_BY_AXES: Mapping[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_BY_AXES: Mapping[int, type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: products of a matrix with the last dimension
LINEAR = (nn.Linear, Conv1D)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
