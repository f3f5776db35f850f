"""The base of decomposed forms: factors of a tensor, their ranks, and the module that multiplies by them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.modifiers.decomposition.forms.geometry import Geometry
from paredown.modifiers.decomposition.forms.stages import chain, weights_of_chain

__all__ = ["Form", "Ranks", "StagedForm"]

Ranks = tuple[int, ...]
#: ranks of convolutions that paredown chooses are multiples of this, where they are larger
ROUND_TO = 16


@dataclass(frozen=True)
class Form(ABC):
    """One way to decompose one layer.

    The tensor is that of `Geometry.tensor_of`, (groups, out, in, positions). Ranks are chosen along one line, from
    level 1 to `levels`, at which nothing is lost: `at`.
    """

    geometry: Geometry

    @property
    @abstractmethod
    def full(self) -> Ranks:
        """The ranks at which nothing is lost."""

    @abstractmethod
    def shapes(self, ranks: Ranks) -> list[tuple[int, ...]]:
        """The shapes of the factors."""

    @abstractmethod
    def factors(self, tensor: Tensor, ranks: Ranks) -> list[Tensor]:
        """The factors of these ranks, in the tensor's type."""

    @abstractmethod
    def product(self, factors: Sequence[Tensor]) -> Tensor:
        """The tensor that factors multiply out to."""

    @abstractmethod
    def module(self, factors: Sequence[Tensor], bias: nn.Parameter | None) -> nn.Module:
        """The module that has the factors for weights, and this very bias."""

    @abstractmethod
    def factors_of(self, module: nn.Module) -> list[Tensor]:
        """The factors of what `module` gave."""

    @abstractmethod
    def rank_for_energy(self, tensor: Tensor, energy: float) -> Ranks:
        """The least ranks that keep a share of the squared entries, mode by mode."""

    @abstractmethod
    def rank_by_variational_bayes(self, tensor: Tensor) -> Ranks:
        """The ranks that stand out of the noise, mode by mode; may be 0."""

    def objection(self, tensor: Tensor, factors: Sequence[Tensor]) -> str | None:
        """Why factors that were found are not to be used, if so."""
        return None

    @property
    def saves_time(self) -> bool:
        """Whether a smaller layer of this form can be faster than the dense one; an embedding is looked up anyway."""
        return self.geometry.kind != "embedding"

    @property
    def dense(self) -> int:
        """The weights of the layer."""
        return math.prod(self.geometry.shape)

    @property
    def levels(self) -> int:
        """The largest of the full ranks."""
        return max(self.full)

    def at(self, level: int) -> Ranks:
        """The ranks at a level: each the same share of its full rank, rounded up."""
        return tuple(max(1, math.ceil(full * level / self.levels)) for full in self.full)

    def clamped(self, rank: int) -> Ranks:
        """This rank in every mode, at most the full one."""
        return tuple(min(rank, full) for full in self.full)

    def rounded(self, ranks: Ranks, up: bool = False) -> Ranks:
        """Ranks of a convolution as multiples of 16, where they are larger: what fast kernels want."""
        if self.geometry.kind != "convolution":
            return ranks
        return tuple(min(full, _multiple(rank, up)) for rank, full in zip(ranks, self.full, strict=True))

    def parameters(self, ranks: Ranks) -> int:
        """The entries of the factors; the bias does not count."""
        return sum(math.prod(shape) for shape in self.shapes(ranks))

    def largest(self, parameters: float) -> Ranks:
        """The ranks at the highest level that has at most this many parameters; those of level 1 if none has."""
        low, high = 1, self.levels
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.parameters(self.at(middle)) <= parameters else (low, middle - 1)
        return self.at(low)

    def of_ratio(self, ratio: float) -> Ranks:
        """The largest ranks that divide the layer's weights by this much; of a convolution `rounded`."""
        return self.rounded(self.largest(self.dense / ratio))

    def skeleton(self, ranks: Ranks, like: Tensor, bias: nn.Parameter | None) -> nn.Module:
        """The module that a decomposition would give, with zeros of the type and device of ``like`` for contents."""
        zeros = [torch.zeros(shape, dtype=like.dtype, device=like.device) for shape in self.shapes(ranks)]
        return self.module(zeros, bias)


class StagedForm(Form):
    """A form whose factors are the weights of a chain of ordinary layers, (groups, out, in, positions) each."""

    @property
    @abstractmethod
    def axes(self) -> tuple[tuple[int, ...], ...]:
        """The axes of space that each stage covers."""

    def module(self, factors: Sequence[Tensor], bias: nn.Parameter | None) -> nn.Module:
        return chain(self.geometry, factors, self.axes, bias)

    def factors_of(self, module: Any) -> list[Tensor]:
        return weights_of_chain(self.geometry, module)


def _multiple(rank: int, up: bool) -> int:
    if rank < ROUND_TO:
        return rank
    return (rank + (ROUND_TO - 1 if up else 0)) // ROUND_TO * ROUND_TO
