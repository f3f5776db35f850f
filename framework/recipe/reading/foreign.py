"""Recognises recipes of the tools that `paredown convert` reads, so that one message takes the place of many."""

from __future__ import annotations

from paredown.framework.errors import Mistake
from paredown.framework.recipe.reading.sources import Document
from paredown.framework.recipe.tree.nodes import Node

__all__ = ["foreign_mistake"]


def foreign_mistake(document: Document) -> Mistake | None:
    """The one mistake of a recipe of SparseML or llm-compressor; None for any other document."""
    root = document.root
    if "recipe" in (root.mapping or {}) or not _is_foreign(root):
        return None
    command = f"paredown convert {document.file} --output new.yaml"
    return root.position.mistake(f"a recipe of SparseML or llm-compressor; translate it: {command}")


def _is_foreign(node: Node) -> bool:
    """Whether modifiers are listed, or called as those tools call them, here or in a stage of the recipe."""
    if isinstance(node.value, tuple):
        return any(_has_class(child) or "start_epoch" in (child.mapping or {}) for child in node.value)
    found = node.mapping or {}
    groups = [child for key, child in found.items() if key == "modifiers" or key.endswith("_modifiers")]
    stages = [child for child in found.values() if any(_names_group(key) for key in child.mapping or {})]
    return _has_class(node) or any(map(_is_foreign, [*groups, *stages]))


def _has_class(node: Node) -> bool:
    return any(key.endswith("Modifier") for key in node.mapping or {})


def _names_group(key: str) -> bool:
    return key == "modifiers" or key.endswith(("_modifiers", "Modifier"))
