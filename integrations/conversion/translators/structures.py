"""Translates `mask_type` and `mask_structure`: which weights are pruned together."""

from __future__ import annotations

import re
from typing import Any, TypeGuard

from paredown.integrations.conversion.fields import Fields

__all__ = ["is_pattern", "listed_share", "structure"]

STRUCTURES: dict[str, Any] = {
    "unstructured": "unstructured",
    "0:0": "unstructured",
    "block4": {"block": [1, 4]},
    "tensorrt": "2:4",
    "filter": "channel",
}


def structure(fields: Fields, name: str = "mask_type") -> dict[str, Any] | None:
    """`structure`, if it is not the default; None where there is no counterpart, which is listed."""
    given = fields.plain(name, "unstructured")
    if isinstance(given, list) and len(given) == 2:
        return {"structure": {"block": given}}
    text = str(given)
    if is_pattern(text):
        return {"structure": text}
    if text not in STRUCTURES:
        reason = "input channels; channel_pruning removes them with the outputs that they come from"
        reason = reason if text == "channel" else f"one of {', '.join(STRUCTURES)}, N:M or [rows, columns]"
        fields.left_out(name, reason)
        fields.drop(f"there is no counterpart of its {name}")
        return None
    found = STRUCTURES[text]
    return {} if found == "unstructured" else {"structure": found}


def is_pattern(given: object) -> TypeGuard[str]:
    """Whether a structure is N:M, which has a sparsity of its own."""
    return isinstance(given, str) and re.fullmatch(r"[1-9]\d*:[1-9]\d*", given) is not None


def listed_share(fields: Fields, pattern: str, name: str, *unset: float) -> None:
    """List a field of sparsity that differs from the one that N:M has; values in ``unset`` mean none."""
    keep, group = (int(number) for number in pattern.split(":"))
    share = 1 - keep / group
    if fields.number(name) not in (share, *unset):
        fields.differs(f"{pattern} is a sparsity of {share:g}", name)
