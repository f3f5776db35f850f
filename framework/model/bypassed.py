"""Layers whose forward their parent does not call: it reads their weight itself."""

from __future__ import annotations

from torch import nn

from paredown.framework.model.targets import named_modules

__all__ = ["bypassed"]


def bypassed(model: nn.Module, name: str) -> str | None:
    """Why a change of the forward or the structure of a layer would not reach its parent's computation, if so.

    Args:
        model: the whole.
        name: plain name of the layer.
    """
    above, _, key = name.rpartition(".")
    parent = named_modules(model).get(above)
    if isinstance(parent, nn.MultiheadAttention) and key == "out_proj":
        return "its parent MultiheadAttention reads its weight and never calls its forward"
    fast = isinstance(parent, nn.TransformerEncoderLayer) and bool(parent.activation_relu_or_gelu)
    if fast and key in ("linear1", "linear2"):
        return "its parent TransformerEncoderLayer reads its weight in eval mode and does not call its forward"
    return None
