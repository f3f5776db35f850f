"""Kinds of convolutions, by the number of axes that their kernels move over and all together."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

__all__ = ["CONVOLUTIONS", "CONVOLUTION_BY_AXES", "TRANSPOSED", "TRANSPOSED_BY_AXES"]

CONVOLUTION_BY_AXES: Mapping[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_BY_AXES: Mapping[int, type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
