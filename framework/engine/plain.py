"""A model as it is compared: a copy in eval mode, with its quantizers or without, and the tensors that it returns."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.model.forward import Forward, call
from paredown.framework.model.graph.trace import tensors_of
from paredown.framework.model.links import links_of, remove_links
from paredown.framework.model.targets import unwrap

__all__ = ["eval_copy", "layers_in", "outputs_of", "plain_copy"]


def eval_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters are not trained; what is part of the model, such as quantizers, is kept."""
    with torch.no_grad():
        copied: nn.Module = copy.deepcopy(unwrap(model)).eval()
    return copied.requires_grad_(False)


def plain_copy(model: nn.Module) -> nn.Module:
    """`eval_copy` without quantizers."""
    plain = eval_copy(model)
    for module in list(plain.modules()):
        remove_links(module, links_of(module))
    return plain


def layers_in(model: nn.Module) -> list[str]:
    """The names of the modules with a matrix of their own: those whose results are compared."""
    return [
        name
        for name, module in model.named_modules()
        if any(each is not None and each.dim() > 1 for each in module._parameters.values())
    ]


def outputs_of(model: nn.Module, example_inputs: Any, forward: Forward | None) -> tuple[Tensor, ...]:
    """The tensors in the model's output."""
    with torch.no_grad():
        return tuple(tensor.detach() for tensor in tensors_of(call(model, example_inputs, forward)))
