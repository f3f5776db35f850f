"""What is pruned together: `mask_type`, `mask_structure`."""

from __future__ import annotations

import re
from typing import Any

from paredown.integrations.conversion.fields import Fields

__all__ = ["STRUCTURES", "structure"]

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
    if re.fullmatch(r"[1-9]\d*:[1-9]\d*", text):
        return {"structure": text}
    if text not in STRUCTURES:
        reason = "input channels; channel_pruning removes them with the outputs that they come from"
        reason = reason if text == "channel" else f"one of {', '.join(STRUCTURES)}, N:M or [rows, columns]"
        fields.left_out(name, reason)
        fields.notes.left_out(fields.old.line, fields.old.title, f"there is no counterpart of its {name}")
        return None
    found = STRUCTURES[text]
    return {} if found == "unstructured" else {"structure": found}
