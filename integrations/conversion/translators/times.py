"""Translates epochs to windows: -1 means the start or the end of the run, which a paredown recipe leaves out."""

from __future__ import annotations

from typing import Any

from paredown.integrations.conversion.fields import Fields

__all__ = ["every", "is_trained", "window"]


def is_trained(fields: Fields) -> bool:
    """Whether a modifier follows a training run, rather than acting once."""
    old = fields.old
    if old.run_type is not None:
        return old.run_type == "train"
    return old.tagged or any(name in old.fields for name in ("start", "end", "start_epoch", "end_epoch"))


def window(fields: Fields) -> dict[str, Any]:
    """`start` and `end`, in epochs; nothing for a modifier that acts once."""
    if not is_trained(fields):
        for name in ("start_epoch", "end_epoch"):
            fields.expect(name, 0, -1, reason="it acts once, without training")
        return {}
    found: dict[str, Any] = {}
    if fields.number("start_epoch", -1) not in (0, -1):
        found["start"] = fields.plain("start_epoch")
    if fields.number("end_epoch", -1) != -1:
        found["end"] = fields.plain("end_epoch")
    return found


def every(fields: Fields) -> dict[str, Any]:
    """`every`; a frequency of -1 was every step."""
    if not is_trained(fields):
        fields.expect("update_frequency", -1, reason="it acts once, without training")
        return {}
    frequency = fields.number("update_frequency", -1)
    return {"every": "1 steps" if frequency is None or frequency <= 0 else fields.plain("update_frequency")}
