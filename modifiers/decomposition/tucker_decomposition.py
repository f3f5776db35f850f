"""`tucker_decomposition`: a small kernel between two 1 x 1 convolutions."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from paredown.modifiers.decomposition.decomposition import Decomposition
from paredown.modifiers.decomposition.forms.base import Form
from paredown.modifiers.decomposition.forms.geometry import Geometry
from paredown.modifiers.decomposition.forms.kernel_forms import CoreForm, kernel_form
from paredown.modifiers.decomposition.forms.tucker import tucker2


class TuckerForm(CoreForm):
    """The nearest that alternating least squares finds from the higher-order SVD."""

    def triple(self, tensor: Tensor, ranks: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        return tucker2(tensor, ranks)


class TuckerDecomposition(Decomposition):
    """Tucker-2 decomposition of convolutions (Kim et al., 2016, arXiv:1511.06530): bases of the output and of the
    input channels, and a core with the kernel between them.

    A convolution of S inputs, T outputs and kernel k x k becomes a 1 x 1 convolution to R_in channels, one of k x k to
    R_out, and a 1 x 1 one to T. Bases are the leading eigenvectors of the Gram matrices (HOSVD, De Lathauwer et al.,
    2000), improved by two sweeps of higher-order orthogonal iteration. One integer is the rank of both modes; ratio,
    budget and latency lower both in proportion, energy and vbmf look at each by itself. A 1 x 1 convolution is a matrix
    and gets the two layers of its SVD, which is the same.

    With ``activation_aware`` the input channels are whitened by their second moments on ``data``, and the last layer is
    fitted to the responses.

    The layers are ordinary ones in an ``nn.Sequential``; the new parameters take the old one's place in the optimizer.
    What would not pay (``guard``), or cannot be done, is left alone with the reason in the plan.
    """

    example: ClassVar = {"rank": 2, "guard": "none"}

    type: Literal["tucker_decomposition"] = "tucker_decomposition"

    def form(self, geometry: Geometry) -> Form | str:
        return kernel_form(geometry, TuckerForm)
