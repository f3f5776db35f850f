"""`tensor_train_decomposition`: a chain of small cores in place of a matrix or a kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.modifiers.decomposition.decomposition import Decomposition
from paredown.modifiers.decomposition.forms.base import Form, Ranks
from paredown.modifiers.decomposition.forms.factorization import rank_for_energy
from paredown.modifiers.decomposition.forms.geometry import Geometry
from paredown.modifiers.decomposition.forms.kernel_forms import CoreForm, kernel_form
from paredown.modifiers.decomposition.forms.tensor_train import (
    balanced_dimensions,
    matrix_of,
    tensor_train_kernel,
    tensor_train_matrix,
    tensor_train_ranks,
)
from paredown.modifiers.decomposition.forms.tensor_train_layers import TensorTrainEmbedding, TensorTrainLinear
from paredown.modifiers.decomposition.forms.variational_bayes import rank_by_variational_bayes


class TrainForm(CoreForm):
    """A train of inputs, kernel and outputs."""

    def triple(self, tensor: Tensor, ranks: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        return tensor_train_kernel(tensor, ranks)


@dataclass(frozen=True)
class MatrixTrainForm(Form):
    """A matrix whose rows and columns are counted in several digits, a core for each digit."""

    cores: int = 2

    @property
    def rows(self) -> tuple[int, ...]:
        """The digits of the weight's rows."""
        sizes = self._sizes
        return balanced_dimensions(sizes[0], self.cores)

    @property
    def columns(self) -> tuple[int, ...]:
        """The digits of the weight's columns."""
        return balanced_dimensions(self._sizes[1], self.cores)

    @property
    def full(self) -> Ranks:
        return tuple(tensor_train_ranks(self.rows, self.columns))

    @property
    def saves_time(self) -> bool:
        return False

    def at(self, level: int) -> Ranks:
        return self.clamped(level)

    def shapes(self, ranks: Ranks) -> list[tuple[int, ...]]:
        ends = (1, *ranks, 1)
        sides = zip(ends[:-1], self.rows, self.columns, ends[1:], strict=True)
        return list(sides)

    def factors(self, tensor: Tensor, ranks: Ranks) -> list[Tensor]:
        return tensor_train_matrix(self._matrix(tensor), self.rows, self.columns, max(ranks))

    def product(self, factors: Sequence[Tensor]) -> Tensor:
        return self._tensor(matrix_of(factors, self._sizes))

    def module(self, factors: Sequence[Tensor], bias: nn.Parameter | None) -> nn.Module:
        geometry = self.geometry
        if geometry.kind == "embedding":
            return TensorTrainEmbedding(factors, geometry.inputs, geometry.outputs, geometry.options["padding_idx"])
        return TensorTrainLinear(factors, geometry.inputs, geometry.outputs, bias)

    def factors_of(self, module: Any) -> list[Tensor]:
        return [core.detach() for core in module.cores]

    def rank_for_energy(self, tensor: Tensor, energy: float) -> Ranks:
        return self.clamped(max(rank_for_energy(unfolding, energy) for unfolding in self._unfoldings(tensor)))

    def rank_by_variational_bayes(self, tensor: Tensor) -> Ranks:
        return self.clamped(max(rank_by_variational_bayes(unfolding) for unfolding in self._unfoldings(tensor)))

    @property
    def _sizes(self) -> tuple[int, int]:
        """Rows and columns of the weight as the layer holds it: an embedding's rows are its inputs."""
        geometry = self.geometry
        sizes = geometry.outputs, geometry.inputs
        return sizes[::-1] if geometry.kind == "embedding" else sizes

    def _matrix(self, tensor: Tensor) -> Tensor:
        matrix = tensor[0, :, :, 0]
        return matrix.mT if self.geometry.kind == "embedding" else matrix

    def _tensor(self, matrix: Tensor) -> Tensor:
        return (matrix.mT if self.geometry.kind == "embedding" else matrix)[None, :, :, None]

    def _unfoldings(self, tensor: Tensor) -> list[Tensor]:
        """The matrix by its first digits and the other ones, for every place between them."""
        matrix = self._matrix(tensor)
        down, right = math.prod(self.rows) - matrix.shape[0], math.prod(self.columns) - matrix.shape[1]
        digits = nn.functional.pad(matrix, (0, right, 0, down)).reshape(*self.rows, *self.columns)
        mixed = digits.permute([place for digit in range(self.cores) for place in (digit, digit + self.cores)])
        return [mixed.flatten(0, 2 * cut - 1).flatten(1) for cut in range(1, self.cores)]


class TensorTrainDecomposition(Decomposition):
    """Tensor-train decomposition (Oseledets, 2011, doi:10.1137/090752286): a chain of small cores.

    It saves size, not time: a matrix in tensor-train form is multiplied by core by core, which is slower than one
    product. Use it where the size of a file or of an embedding counts.

    A Linear becomes a `TensorTrainLinear`, an Embedding a `TensorTrainEmbedding` (Novikov et al., 2015,
    arXiv:1509.06569): rows and columns are counted in ``cores`` digits of near-even size, padded with zeros where they
    do not fit, and each core has one digit of both. A convolution is a train of its inputs, its kernel with the axes
    merged, and its outputs: three ordinary convolutions as of `tucker_decomposition`, found one after the other instead
    of together. A 1 x 1 convolution gets the two layers of its SVD.

    With ``activation_aware`` convolutions are whitened and fitted to their responses as by `tucker_decomposition`; for
    matrices there is no such form, and they are decomposed by their weights.

    The new parameters take the old one's place in the optimizer. What would not pay (``guard``: for matrices their size
    alone, unless latency is asked for), or cannot be done, is left alone with the reason in the plan.
    """

    example: ClassVar = {"rank": 2, "guard": "none"}
    form_fields: ClassVar = ("cores",)

    type: Literal["tensor_train_decomposition"] = "tensor_train_decomposition"
    cores: Annotated[int, Strict(), Field(ge=2)] = 2
    """Of a matrix; more of them are smaller at the same rank."""

    def form(self, geometry: Geometry) -> Form | str:
        if geometry.kind != "convolution":
            return MatrixTrainForm(geometry, self.cores)
        return kernel_form(geometry, TrainForm)
