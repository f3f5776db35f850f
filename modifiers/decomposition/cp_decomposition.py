"""`cp_decomposition`: a sum of rank-one kernels, as 1 x 1, depthwise and 1 x 1 convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from paredown.modifiers.decomposition.decomposition import Decomposition
from paredown.modifiers.decomposition.forms.base import Form, Ranks
from paredown.modifiers.decomposition.forms.canonical_polyadic import canonical_polyadic, full_rank
from paredown.modifiers.decomposition.forms.factorization import wide
from paredown.modifiers.decomposition.forms.geometry import Geometry
from paredown.modifiers.decomposition.forms.kernel_forms import KernelForm, kernel_form, modes
from paredown.modifiers.decomposition.forms.variational_bayes import rank_by_variational_bayes

#: the squared norms of the terms over that of the tensor; above it they cancel each other, and cannot be trained
MOST_SENSITIVITY = 10.0


class CPForm(KernelForm):
    """A depthwise kernel between the two: as many channels as there are rank-one terms."""

    @property
    def full(self) -> Ranks:
        _, out, inputs, positions = self.geometry.shape
        return (full_rank((out, inputs, positions)),)

    def shapes(self, ranks: Ranks) -> list[tuple[int, ...]]:
        groups, out, inputs, positions = self.geometry.shape
        return [(groups, ranks[0], inputs, 1), (groups * ranks[0], 1, 1, positions), (groups, out, ranks[0], 1)]

    def factors(self, tensor: Tensor, ranks: Ranks) -> list[Tensor]:
        each = [canonical_polyadic(group, ranks[0]) for group in tensor]
        inputs = torch.stack([one.inputs.mT for one in each])
        positions = torch.cat([one.positions.mT for one in each])
        output = torch.stack([one.output for one in each])
        return [inputs[..., None], positions[:, None, None], output[..., None]]

    def product(self, factors: Sequence[Tensor]) -> Tensor:
        inputs, positions, output = factors
        kernel = positions.reshape(len(inputs), -1, self.geometry.positions)
        return torch.einsum("gor,grp,gri->goip", output[..., 0], kernel, inputs[..., 0])

    def objection(self, tensor: Tensor, factors: Sequence[Tensor]) -> str | None:
        sensitivity = float(self.sensitivity(tensor, factors))
        if sensitivity <= MOST_SENSITIVITY:
            return None
        return (
            f"its terms cancel each other (sensitivity {sensitivity:.3g}, at most {MOST_SENSITIVITY:g}): another rank, "
            "or tucker_decomposition"
        )

    def sensitivity(self, tensor: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """The sum of the terms' squared norms over the squared norm of the tensor, of all groups together."""
        inputs, positions, output = (each.double() for each in factors)
        kernel = positions.reshape(len(inputs), -1, self.geometry.positions)
        norms = inputs.square().sum((2, 3)) * kernel.square().sum(2) * output.square().sum((1, 3))
        share: Tensor = norms.sum() / tensor.double().square().sum().clamp_min(torch.finfo(torch.float64).tiny)
        return share

    def rank_for_energy(self, tensor: Tensor, energy: float) -> Ranks:
        low, high = 1, self.levels
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._lost(tensor, middle) <= 1 - energy else (middle + 1, high)
        return (low,)

    def rank_by_variational_bayes(self, tensor: Tensor) -> Ranks:
        return (max(rank_by_variational_bayes(matrix) for mode in modes(tensor) for matrix in mode),)

    def _lost(self, tensor: Tensor, rank: int) -> float:
        """The share of the squared entries that a rank loses."""
        lost = wide(tensor) - wide(self.product(self.factors(tensor, (rank,))))
        return float(lost.square().sum() / wide(tensor).square().sum())


class CPDecomposition(Decomposition):
    """CP decomposition of convolutions (Lebedev et al., 2015, arXiv:1412.6553), the axes of the kernel merged: a sum of
    R rank-one terms.

    A convolution of S inputs, T outputs and kernel k x k becomes a 1 x 1 convolution to R channels, a depthwise one of
    k x k, and a 1 x 1 one to T. The terms are found by alternating least squares with a ridge and terms of even norms,
    against degeneracy (Phan et al., 2020, arXiv:2008.05441). Where they still cancel each other, the sum of their
    squared norms above ten times that of the kernel, the layer is left alone, with that number: it could not be
    trained. At the full rank, min(in, out) x positions or less, the terms are written down exactly. ``energy`` tries
    ranks one after the other. A 1 x 1 convolution is a matrix and gets the two layers of its SVD, which is the same.

    Of all decompositions it has the fewest parameters and the most layers: fine-tune it with a small learning rate.

    With ``activation_aware`` the input channels are whitened by their second moments on ``data``, and the last layer is
    fitted to the responses.

    The layers are ordinary ones in an ``nn.Sequential``; the new parameters take the old one's place in the optimizer.
    What would not pay (``guard``), or cannot be done, is left alone with the reason in the plan.
    """

    example: ClassVar = {"rank": 4, "guard": "none"}

    type: Literal["cp_decomposition"] = "cp_decomposition"

    def form(self, geometry: Geometry) -> Form | str:
        return kernel_form(geometry, CPForm)
