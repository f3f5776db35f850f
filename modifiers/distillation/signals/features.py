"""Finding the feature among what a layer returns, with its channels as the second dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from paredown.framework.auxiliary.losses import Pass
from paredown.framework.errors import TargetError

__all__ = ["channel_dimension", "embeddings", "hidden_state", "tokens_that_count"]

OVER_ONE_AXIS = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)


def hidden_state(given: Any, name: str) -> Tensor:
    """The feature: the tensor itself, or the first one of a tuple, list or mapping.

    Raises:
        TargetError: there is none of the shape (batch, ...).
    """
    parts = given.values() if isinstance(given, Mapping) else given if isinstance(given, (tuple, list)) else [given]
    found = next((part for part in parts if isinstance(part, Tensor) and part.is_floating_point()), None)
    if found is None or not 2 <= found.dim() <= 5:
        raise TargetError(f"{name} gives no feature of two to five dimensions, but a {type(given).__name__}")
    return found


def channel_dimension(feature: Tensor, layer: nn.Module) -> int:
    """Where the channels of a feature are: second, but last of three, unless the layer works over one axis."""
    if feature.dim() != 3:
        return 1
    return 1 if any(isinstance(module, OVER_ONE_AXIS) for module in layer.modules()) else 2


def tokens_that_count(forward: Pass, feature: Tensor) -> Tensor | None:
    """Of a feature (batch, tokens, ...), which tokens are no padding: (batch, tokens), from ``attention_mask``."""
    mask = forward.kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or feature.dim() < 3 or mask.shape != feature.shape[:2]:
        return None
    return mask.to(feature.device) != 0


def embeddings(feature: Tensor, tokens: Tensor | None) -> Tensor:
    """One vector a sample: the mean over those tokens of (batch, tokens, width) that count; others are flattened.

    >>> embeddings(Tensor([[[1.0], [5.0]]]), Tensor([[1, 0]]))
    tensor([[1.]])
    """
    if feature.dim() != 3:
        return feature.flatten(1)
    if tokens is None:
        return feature.mean(1)
    counts = tokens.unsqueeze(-1).to(feature.dtype)
    return (feature * counts).sum(1) / counts.sum(1).clamp(min=1)
