"""What a model gives out, whatever it wraps it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from paredown.framework.errors import TargetError

__all__ = ["logits_of"]


def logits_of(output: Any) -> Tensor:
    """The logits: the output itself, its ``logits``, or the first tensor of a tuple or list that is no 0-d loss.

    Raises:
        TargetError: there are none.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if logits is None and isinstance(output, (tuple, list)):
        logits = next((part for part in output if isinstance(part, Tensor) and part.dim()), None)
    if not isinstance(logits, Tensor):
        raise TargetError(
            f"no logits in a {type(output).__name__}: a tensor, a tuple or a mapping with 'logits' is read"
        )
    return logits
