"""Which layers can be quantized, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from paredown.framework.managed import links_of
from paredown.framework.targets import named_modules

__all__ = ["refusals"]


def refusals(model: nn.Module, targets: Mapping[str, nn.Module]) -> dict[str, str]:
    """The targets that a managed forward cannot quantize, by name, with the reason."""
    modules = named_modules(model)
    reasons = {}
    for name, module in targets.items():
        reason = _reason(module, modules.get(name.rpartition(".")[0]), name.rpartition(".")[2])
        if reason is not None:
            reasons[name] = reason
    return reasons


def _reason(module: nn.Module, parent: nn.Module | None, key: str) -> str | None:
    if module._parameters.get("weight") is None:
        return "its weight is computed, not stored (a parametrization such as weight_norm or LoRA)"
    if any(link.permanent for link in links_of(module)):
        return "it is quantized already"
    if isinstance(parent, nn.MultiheadAttention) and key == "out_proj":
        return "its parent MultiheadAttention reads its weight and never calls its forward"
    if isinstance(parent, nn.TransformerEncoderLayer) and key in ("linear1", "linear2"):
        return "its parent TransformerEncoderLayer reads its weight in eval mode and does not call its forward"
    return None
