"""Variables whose name is wrong: nothing refers to them, and something refers to one that is called nearly so."""

from __future__ import annotations

import re
from collections.abc import Iterator

from paredown.framework.errors import Mistake
from paredown.framework.recipe.tree.nodes import Node
from paredown.framework.recipe.tree.positions import did_you_mean

__all__ = ["misspelt_variables"]

_WORD = re.compile(r"[\w-]+")


def misspelt_variables(root: Node) -> list[Mistake]:
    """The mistakes of a recipe in an app's config, where an override may set a variable that was not there."""
    variables = root.child("variables")
    named = {} if variables is None else variables.mapping or {}
    words = set(_words(root))
    used = [name for name in named if name in words]
    mistakes = []
    for name, node in named.items():
        if name not in words and (near := did_you_mean(name, used)):
            mistakes.append(node.position.mistake(f"nothing refers to it{near}", ("variables", name)))
    return mistakes


def _words(node: Node) -> Iterator[str]:
    """The words of everything interpolated."""
    if isinstance(node.value, str) and "${" in node.value:
        yield from _WORD.findall(node.value)
    for _, child in node.children():
        yield from _words(child)
