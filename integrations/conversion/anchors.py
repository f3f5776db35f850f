"""The numbers of an old recipe that anchors and aliases share (`&rate 0.1`, `*rate`), by the variables they become."""

from __future__ import annotations

import re
from collections.abc import Mapping
from keyword import iskeyword

import yaml

from paredown.framework.recipe.tree.scalars import FLOAT, INTEGER
from paredown.framework.recipe.tree.yaml_syntax import Composed

__all__ = ["shared_numbers"]


def shared_numbers(document: Composed) -> Mapping[yaml.Node, str]:
    """The names of variables by the nodes of numbers that have an alias.

    A number that a key of the document has is called by that key, any other one by its anchor.
    """
    root = document.root
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    keys = {child: key.value for key, child in pairs if isinstance(key, yaml.ScalarNode) and _is_name(key.value)}
    taken = {key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)}
    found: dict[yaml.Node, str] = {}
    for node, anchor in document.anchors.items():
        if _is_number(node):
            found[node] = keys.get(node) or _free(_as_name(anchor), taken)
            taken.add(found[node])
    return found


def _is_number(node: yaml.Node) -> bool:
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return plain and re.fullmatch(f"{INTEGER}|{FLOAT}", node.value, re.ASCII) is not None


def _is_name(text: str) -> bool:
    return text.isascii() and text.isidentifier() and not iskeyword(text)


def _as_name(anchor: str) -> str:
    name = re.sub(r"\W", "_", anchor, flags=re.ASCII)
    return name if _is_name(name) else f"_{name}"


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
