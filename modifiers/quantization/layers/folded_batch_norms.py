"""Layers whose weights are to be quantized as they are after batch-norm folding."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.model.graph.fusion import batch_norms_after
from paredown.framework.model.kinds import CONVOLUTIONS, LINEAR, TRANSPOSED
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.schemes import LayerSchemes

__all__ = ["folded_batch_norms"]


def folded_batch_norms(training: Training, layers: Mapping[str, tuple[nn.Module, LayerSchemes]]) -> dict[str, str]:
    """The batch-norm behind each convolution or linear layer for which folding changes the codes, by names.

    With a scale for each channel (or for groups within one) the codes before and after folding are the same, but for
    the sign; with one for the whole weight they are not (Krishnamoorthi, 2018, arXiv:1806.08342, section 3.2.2). It is
    read off the model's graph; without example inputs or data there are none.
    """
    wanted = [
        name
        for name, (module, schemes) in layers.items()
        if isinstance(module, (*LINEAR, *CONVOLUTIONS, *TRANSPOSED))
        and schemes.weights is not None
        and schemes.weights.symmetric
        and schemes.weights.granularity == "tensor"
    ]
    try:
        graph = training.data.graph() if wanted else None
    except TargetError:
        return {}
    pairs = {} if graph is None else batch_norms_after(graph)
    return {name: pairs[name] for name in wanted if name in pairs}
