"""Moving a factor per channel from the layer that makes a value into the layers that read it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paredown.framework.model.graph.fusion import Scaling
from paredown.framework.model.targets import named_modules, named_parameters

__all__ = ["geometric", "move_scale_"]


def move_scale_(model: nn.Module, scaling: Scaling, s: Tensor) -> None:
    """Divide what makes the value by ``s`` and multiply the weights that read it: the model computes what it did.

    Args:
        model: the whole, with its parameters under the names of the scaling.
        scaling: where.
        s: (channels,), positive.
    """
    parameters, modules = named_parameters(model), named_modules(model)
    with torch.no_grad():
        for name, dimension in scaling.before:
            parameters[name].div_(_along(s, parameters[name], dimension))
        for name, dimension in scaling.after:
            weight = modules[name].get_parameter("weight")
            weight.mul_(_along(s, weight, dimension))


def geometric(numerator: Tensor, denominator: Tensor, share: float) -> Tensor:
    """numerator^share / denominator^(1 - share), elementwise; 1 where either is 0."""
    known = (numerator > 0) & (denominator > 0)
    safe = torch.where(known, numerator, 1.0), torch.where(known, denominator, 1.0)
    return torch.where(known, safe[0].pow(share) / safe[1].pow(1 - share), 1.0)


def _along(s: Tensor, tensor: Tensor, dimension: int) -> Tensor:
    shape = [1] * tensor.dim()
    shape[dimension] = -1
    return s.to(tensor.dtype).reshape(shape)
