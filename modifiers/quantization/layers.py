"""Which layers can be quantized, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from paredown.framework.bypassed import bypassed
from paredown.framework.managed import links_of
from paredown.framework.weights import COMPUTED

__all__ = ["refusals"]


def refusals(model: nn.Module, targets: Mapping[str, nn.Module]) -> dict[str, str]:
    """The targets that a managed forward cannot quantize, by name, with the reason."""
    reasons = {name: _reason(model, name, module) for name, module in targets.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _reason(model: nn.Module, name: str, module: nn.Module) -> str | None:
    if module._parameters.get("weight") is None:
        return COMPUTED
    if any(link.permanent for link in links_of(module)):
        return "it is quantized already"
    return bypassed(model, name)
