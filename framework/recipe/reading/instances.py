"""Modifiers that were made in Python and stand in a recipe's dict, written as their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.registry import register

__all__ = ["written_out"]


def written_out(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe's dict with each modifier instance as a mapping of its fields; their classes are registered.

    >>> from paredown.modifiers.training.freeze import Freeze
    >>> written_out({"recipe": 1, "modifiers": {"it": Freeze(targets=("head",), end=2)}})["modifiers"]
    {'it': {'type': 'freeze', 'end': 2, 'targets': ['head']}}

    Raises:
        ParedownError: another class has the type name of one of them.
    """
    modifiers = source.get("modifiers")
    if not isinstance(modifiers, Mapping) or not any(isinstance(each, Modifier) for each in modifiers.values()):
        return source
    plain = {name: _fields(each) if isinstance(each, Modifier) else each for name, each in modifiers.items()}
    return {**source, "modifiers": plain}


def _fields(modifier: Modifier) -> dict[str, Any]:
    register(type(modifier))
    return {"type": modifier.type, **_escaped(modifier.model_dump(mode="json", exclude_unset=True, exclude={"type"}))}


def _escaped(value: Any) -> Any:
    """Text that looks like an interpolation is meant as it is."""
    if isinstance(value, dict):
        return {name: _escaped(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_escaped(child) for child in value]
    return value.replace("${", r"\${") if isinstance(value, str) else value
