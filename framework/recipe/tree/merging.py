"""Merges one tree of nodes into another, key by key, and changes single values."""

from __future__ import annotations

from dataclasses import replace

from paredown.framework.recipe.tree.nodes import Node
from paredown.framework.recipe.tree.positions import Path

__all__ = ["merged", "with_value", "without", "wrapped"]


def merged(base: Node, over: Node) -> Node:
    """``base`` with the values of ``over``: mappings merge, ``null`` removes what is inherited, the rest replaces."""
    if base.mapping is None or over.mapping is None:
        return over
    result = dict(base.mapping)
    for name, child in over.mapping.items():
        inherited = result.pop(name, None) if child.value is None else result.get(name)
        if child.value is None and inherited is not None:
            continue
        result[name] = child if inherited is None else merged(inherited, child)
    return replace(over, value=result)


def without(root: Node, path: Path) -> Node:
    """``root`` without the key at ``path``, which exists."""
    head, *rest = path
    children = dict(root.mapping or {})
    below = children.pop(str(head))
    if rest:
        children[str(head)] = without(below, tuple(rest))
        children = {name: children[name] for name in root.mapping or {}}
    return replace(root, value=children)


def with_value(root: Node, path: Path, value: Node) -> Node:
    """``root`` with another value at ``path``, which exists; positions stay."""
    if not path:
        return replace(root, value=value.value)
    children = {
        part: with_value(child, path[1:], value) if part == path[0] else child for part, child in root.children()
    }
    if root.mapping is None:
        return replace(root, value=tuple(children.values()))
    return replace(root, value={str(part): child for part, child in children.items()})


def wrapped(node: Node, path: Path) -> Node:
    """A tree that holds nothing but ``node`` at ``path``."""
    for part in reversed(path):
        node = Node({str(part): replace(node, key=node.position)}, node.position)
    return node
