"""`svd_decomposition`: two thin layers in place of one."""

from __future__ import annotations

from typing import ClassVar, Literal

from paredown.framework.modifier.proposals import Proposal
from paredown.modifiers.decomposition.decomposition import Decomposition
from paredown.modifiers.decomposition.forms.base import Form
from paredown.modifiers.decomposition.forms.geometry import Geometry
from paredown.modifiers.decomposition.forms.matrix_forms import ChannelForm, SpatialForm


class SvdDecomposition(Decomposition):
    """Truncated singular value decomposition: W of (out, in) becomes two factors of rank r, the optimum of that rank.

    By the Eckart-Young theorem no other matrix of rank r is nearer to W in the Frobenius norm. A Linear becomes a
    Linear (in, r) without bias and a Linear (r, out), an Embedding a narrower one and a Linear, the projections of an
    nn.MultiheadAttention each a pair. A convolution is factorized in its matrix form, ``channel`` (k x k to r channels,
    then 1 x 1; Zhang et al., 2015, arXiv:1505.06798) or ``spatial`` (k x 1, then 1 x k; Jaderberg et al., 2014,
    arXiv:1405.3866), group by group; stride, padding and dilation are kept. The factors share the singular values
    evenly, so that both train well.

    With ``activation_aware`` the first eigenvectors of the responses' second moments take the place of those of the
    weight, which gives the least error of the layer's output on ``data``; in the spatial form the input channels are
    whitened and the second layer is fitted to the responses.

    The layers are ordinary ones in an ``nn.Sequential``, the new parameters take the old one's place in the optimizer
    and start with momenta of their own. What would not pay (``guard``), or cannot be done, is left alone with the
    reason in the plan.
    """

    example: ClassVar = {"rank": 2, "guard": "none"}
    form_fields: ClassVar = ("convolution",)

    proposals: ClassVar = tuple(
        Proposal("shape", f"layers of low rank, with their parameters divided by {ratio:g}",
                 {"rank": {"ratio": ratio}, "guard": "rule"}, trained, healed=0.15)
        for trained in (True, False)
        for ratio in (1.5, 2.0, 4.0)
    )  # fmt: skip

    type: Literal["svd_decomposition"] = "svd_decomposition"
    convolution: Literal["spatial", "channel"] = "spatial"
    """The matrix form of a convolution of two or three axes; a kernel of one axis, or 1 x 1, is the same in both."""

    def form(self, geometry: Geometry) -> Form | str:
        if self.convolution == "spatial" and len(geometry.axes) > 1 and geometry.positions > 1:
            return SpatialForm(geometry)
        return ChannelForm(geometry)
