"""Convolutions written as a small kernel between two 1 x 1 convolutions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from paredown.modifiers.decomposition.forms.base import Form, Ranks, StagedForm
from paredown.modifiers.decomposition.forms.factorization import rank_for_energy
from paredown.modifiers.decomposition.forms.geometry import Geometry
from paredown.modifiers.decomposition.forms.matrix_forms import ChannelForm
from paredown.modifiers.decomposition.forms.variational_bayes import rank_by_variational_bayes

__all__ = ["CoreForm", "KernelForm", "kernel_form", "modes"]

NO_KERNEL = "it is a matrix without a kernel: svd_decomposition"


class KernelForm(StagedForm):
    """Three stages: 1 x 1 into fewer channels, the whole kernel among these, 1 x 1 to the outputs."""

    @property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        return (), self.geometry.axes, ()


class CoreForm(KernelForm):
    """A dense kernel between the two; ranks are (out, in)."""

    @abstractmethod
    def triple(self, tensor: Tensor, ranks: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Output (groups, out, r_out), core (groups, r_out, r_in, positions) and inputs (groups, r_in, in)."""

    @property
    def full(self) -> Ranks:
        _, out, inputs, positions = self.geometry.shape
        return min(out, inputs * positions), min(inputs, out * positions)

    def shapes(self, ranks: Ranks) -> list[tuple[int, ...]]:
        groups, out, inputs, positions = self.geometry.shape
        r_out, r_in = ranks
        return [(groups, r_in, inputs, 1), (groups, r_out, r_in, positions), (groups, out, r_out, 1)]

    def factors(self, tensor: Tensor, ranks: Ranks) -> list[Tensor]:
        output, core, inputs = self.triple(tensor, (ranks[0], ranks[1]))
        return [inputs[..., None], core, output[..., None]]

    def product(self, factors: Sequence[Tensor]) -> Tensor:
        inputs, core, output = factors
        return torch.einsum("goa,gabp,gbi->goip", output[..., 0], core, inputs[..., 0])

    def rank_for_energy(self, tensor: Tensor, energy: float) -> Ranks:
        return self._feasible(*(rank_for_energy(mode, energy) for mode in modes(tensor)))

    def rank_by_variational_bayes(self, tensor: Tensor) -> Ranks:
        return self._feasible(*(max(rank_by_variational_bayes(matrix) for matrix in mode) for mode in modes(tensor)))

    def at(self, level: int) -> Ranks:
        return self._feasible(*super().at(level))

    def clamped(self, rank: int) -> Ranks:
        return self._feasible(*super().clamped(rank))

    def _feasible(self, r_out: int, r_in: int) -> Ranks:
        """No rank larger than the core's other sides multiplied."""
        positions = self.geometry.positions
        return min(r_out, r_in * positions), min(r_in, r_out * positions)


def kernel_form(geometry: Geometry, kind: type[KernelForm]) -> Form | str:
    """The form of a convolution; one of 1 x 1 is a matrix, and anything else is none."""
    if geometry.kind != "convolution":
        return NO_KERNEL
    return kind(geometry) if geometry.positions > 1 else ChannelForm(geometry)


def modes(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The unfoldings along the output and the input channels, by group."""
    return tensor.flatten(2), tensor.transpose(1, 2).flatten(2)
