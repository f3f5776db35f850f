"""Writes plain values as YAML that reads back as the same values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from paredown.framework.recipe.tree.scalars import BOOLEAN, FLOAT, INTEGER, NULL

__all__ = ["FIELDS", "to_yaml"]

#: the fields of a recipe, in the order in which it is written
FIELDS = ("recipe", "name", "description", "tags", "extends", "run", "variables", "modifiers", "results")

_KIND = "tag:yaml.org,2002:{}".format
#: by YAML 1.2; the last two are text that a YAML 1.1 reader elsewhere would take for more
_MEANINGS = (
    (_KIND("null"), NULL),
    (_KIND("bool"), BOOLEAN),
    (_KIND("int"), INTEGER),
    (_KIND("float"), FLOAT),
    (_KIND("doubtful"), r"(?i:on|off|yes|no|y|n)|[-+]?[0-9][0-9_]*(:[0-9]+)*(\.[0-9_]*)?|\d{4}-\d\d?-\d\d?.*|<<|="),
    (_KIND("doubtful"), r"[-+]?0b[01_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?[0-9_]*\.[0-9_]+([eE][-+]?[0-9]+)?"),
)


def to_yaml(values: object) -> str:
    """YAML with lists of plain values in one line, in the order of the values.

    >>> print(to_yaml({"end": "500 steps", "curve": "off", "targets": ["a", "b"]}), end="")
    end: 500 steps
    curve: 'off'
    targets: [a, b]
    """
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper with the scalars of YAML 1.2; private, so that no table of PyYAML changes."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML's own shape
        None: [(tag, re.compile(f"(?:{pattern})\\Z", re.ASCII | re.DOTALL)) for tag, pattern in _MEANINGS]
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar(_KIND("str"), data, style="|" if "\n" in data else None)

    def represent_list(self, data: Iterable[Any]) -> yaml.SequenceNode:
        data = list(data)
        is_short = not any(isinstance(element, (list, dict)) for element in data)
        return self.represent_sequence(_KIND("seq"), data, flow_style=is_short)


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_representer(list, _Dumper.represent_list)
