"""Results that an integer engine needs in 8 bits although no quantized layer reads them."""

from __future__ import annotations

from collections.abc import Collection

from paredown.framework.engine.profile import LINEAR
from paredown.framework.errors import TargetError
from paredown.framework.model.graph.results import Result, open_results
from paredown.framework.model.kinds import CONVOLUTIONS, TRANSPOSED
from paredown.framework.model.targets import named_modules
from paredown.framework.modifier.training import Training

__all__ = ["rounded_results"]


def rounded_results(training: Training, layers: Collection[str]) -> list[Result]:
    """Where a result is to be quantized too: of convolutions, residual sums and concatenations.

    They run in integers only where what they give is quantized as well: before a residual addition, a concatenation
    or an average pooling nothing else does so. It is read off the model's graph; without example inputs or data, or
    where the graph cannot be traced, there are none.

    Args:
        layers: the quantized layers that quantize their input.
    """
    modules = named_modules(training.model)
    rounded, convolutions = training.profile.rounded, (*CONVOLUTIONS, *TRANSPOSED)
    if not rounded or (LINEAR not in rounded and not any(isinstance(modules[name], convolutions) for name in layers)):
        return []
    try:
        graph = training.data.graph()
    except TargetError:
        return []
    return [] if graph is None else open_results(graph, layers, rounded)
