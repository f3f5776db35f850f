"""Merges a recipe with the one that it `extends`, which may extend a third."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from paredown.framework.errors import Mistake, RecipeError
from paredown.framework.recipe.reading.sources import TEXT_SUFFIXES, Document, find_file, read_file
from paredown.framework.recipe.tree.merging import merged, without
from paredown.framework.recipe.tree.nodes import Node
from paredown.framework.recipe.tree.positions import shown

__all__ = ["Extended", "extended"]

#: recipes that extend one another; each is merged over the next by a call of its own
LONGEST_CHAIN = 100


@dataclass(frozen=True)
class Extended:
    """A document merged with all that it extends, and the mistakes of reading them."""

    root: Node
    mistakes: tuple[Mistake, ...]


def extended(document: Document, chain: tuple[Path, ...] = ()) -> Extended:
    """Merge a document over its bases; its own values win, ``null`` removes.

    A base's ``results`` stay behind: they are evidence for the base, not for what was made of it.

    Raises:
        RecipeError: a base that is missing, cannot be read, or leads back here.
    """
    if document.path is not None:
        chain = (*chain, document.path.resolve())
    extends = (document.root.mapping or {}).get("extends")
    if extends is None:
        return Extended(document.root, document.mistakes)
    own = without(document.root, ("extends",))
    if extends.value is None:
        return Extended(own, document.mistakes)
    base = extended(_base(document, extends, chain), chain)
    return Extended(merged(_without_results(base.root), own), (*base.mistakes, *document.mistakes))


def _base(document: Document, extends: Node, chain: tuple[Path, ...]) -> Document:
    path = _base_path(document, extends)
    if path.resolve() in chain:
        circle = (*chain[chain.index(path.resolve()) :], path)
        names = " -> ".join(str(link.name) for link in circle)
        raise _refused(extends, f"recipes that extend each other without end: {names}")
    if len(chain) > LONGEST_CHAIN:
        raise _refused(extends, f"a chain of more than {LONGEST_CHAIN} recipes that extend one another")
    base = read_file(path)
    if base.root.mapping is None:
        raise RecipeError([*base.mistakes, base.root.position.mistake("a recipe is a mapping of fields")])
    return base


def _base_path(document: Document, extends: Node) -> Path:
    text = extends.value
    if not isinstance(text, str) or not text:
        raise _refused(extends, f"found {shown(extends.plain())}; the path of a recipe, or the name of a bundled one")
    if "${" in text:
        raise _refused(extends, "no interpolation works here; extends is read before anything is resolved")
    try:
        path = find_file(text, document.folder)
    except RecipeError as error:
        reasons = "; ".join(mistake.message for mistake in error.errors)
        raise _refused(extends, f"{shown(text)}: {reasons}") from None
    if path.suffix.lower() not in TEXT_SUFFIXES:
        raise _refused(extends, f"{shown(text)} is no recipe; one of {', '.join(TEXT_SUFFIXES)}")
    return path


def _refused(extends: Node, message: str) -> RecipeError:
    return RecipeError([extends.position.mistake(message, "extends")])


def _without_results(root: Node) -> Node:
    return without(root, ("results",)) if "results" in (root.mapping or {}) else replace(root)
