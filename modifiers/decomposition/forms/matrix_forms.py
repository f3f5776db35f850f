"""Layers written as a product of two matrices: of features, of channels, or of the axes of a kernel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from paredown.modifiers.decomposition.forms.base import Ranks, StagedForm
from paredown.modifiers.decomposition.forms.factorization import (
    rank_for_energy,
    response_factors,
    truncated_svd_factors,
)
from paredown.modifiers.decomposition.forms.variational_bayes import rank_by_variational_bayes

__all__ = ["ChannelForm", "MatrixForm", "SpatialForm"]


class MatrixForm(StagedForm):
    """Two stages with one rank between them."""

    @abstractmethod
    def matrix(self, tensor: Tensor) -> Tensor:
        """The tensor as the matrix whose rank it is, (groups, rows, columns)."""

    def rank_for_energy(self, tensor: Tensor, energy: float) -> Ranks:
        return (rank_for_energy(self.matrix(tensor), energy),)

    def rank_by_variational_bayes(self, tensor: Tensor) -> Ranks:
        return (max(rank_by_variational_bayes(matrix) for matrix in self.matrix(tensor)),)


class ChannelForm(MatrixForm):
    """(out, in x positions): the kernel to ``rank`` channels, then 1 x 1 (Zhang et al., 2015, arXiv:1505.06798); of a
    Linear or an Embedding the weight itself."""

    @property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        return self.geometry.axes, ()

    @property
    def full(self) -> Ranks:
        _, out, inputs, positions = self.geometry.shape
        return (min(out, inputs * positions),)

    def shapes(self, ranks: Ranks) -> list[tuple[int, ...]]:
        groups, out, inputs, positions = self.geometry.shape
        return [(groups, ranks[0], inputs, positions), (groups, out, ranks[0], 1)]

    def matrix(self, tensor: Tensor) -> Tensor:
        return tensor.flatten(2)

    def factors(self, tensor: Tensor, ranks: Ranks) -> list[Tensor]:
        return self._stages(*truncated_svd_factors(self.matrix(tensor), ranks[0]))

    def response_factors(self, tensor: Tensor, ranks: Ranks, moments: Tensor) -> list[Tensor]:
        """The factors that keep most of what the layer gives out.

        Args:
            moments: E[y y^T] of each group, (groups, out, out).
        """
        return self._stages(*response_factors(self.matrix(tensor), moments, ranks[0]))

    def product(self, factors: Sequence[Tensor]) -> Tensor:
        right, left = factors
        return (left[..., 0] @ right.flatten(2)).reshape(self.geometry.shape)

    def _stages(self, left: Tensor, right: Tensor) -> list[Tensor]:
        _, _, inputs, positions = self.geometry.shape
        return [right.reshape(*right.shape[:2], inputs, positions), left[..., None]]


class SpatialForm(MatrixForm):
    """(in x height, width x out): the kernel's first axis, then the others (Jaderberg et al., 2014,
    arXiv:1405.3866)."""

    @property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        return (0,), self.geometry.axes[1:]

    @property
    def full(self) -> Ranks:
        _, out, inputs, _ = self.geometry.shape
        height, width = self._sides
        return (min(inputs * height, width * out),)

    def shapes(self, ranks: Ranks) -> list[tuple[int, ...]]:
        groups, out, inputs, _ = self.geometry.shape
        height, width = self._sides
        return [(groups, ranks[0], inputs, height), (groups, out, ranks[0], width)]

    def matrix(self, tensor: Tensor) -> Tensor:
        groups, out, inputs, _ = self.geometry.shape
        height, width = self._sides
        by_axis = tensor.reshape(groups, out, inputs, height, width).permute(0, 2, 3, 4, 1)
        return by_axis.reshape(groups, inputs * height, width * out)

    def factors(self, tensor: Tensor, ranks: Ranks) -> list[Tensor]:
        groups, out, inputs, _ = self.geometry.shape
        height, width = self._sides
        left, right = truncated_svd_factors(self.matrix(tensor), ranks[0])
        first = left.reshape(groups, inputs, height, -1).permute(0, 3, 1, 2)
        return [first, right.reshape(groups, -1, width, out).permute(0, 3, 1, 2)]

    def product(self, factors: Sequence[Tensor]) -> Tensor:
        first, second = factors
        left = first.flatten(2).mT
        right = second.transpose(1, 2).transpose(2, 3).flatten(2)
        groups, out, inputs, _ = self.geometry.shape
        height, width = self._sides
        whole = (left @ right).reshape(groups, inputs, height, width, out)
        return whole.permute(0, 4, 1, 2, 3).flatten(3)

    @property
    def _sides(self) -> tuple[int, int]:
        size = self.geometry.kernel.size[0]
        return size, self.geometry.positions // size
