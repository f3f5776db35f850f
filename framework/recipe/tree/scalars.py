"""Plain scalars by YAML 1.2's core schema: `1e-3` is a number, `off` and `yes` are words.

https://yaml.org/spec/1.2.2/#103-core-schema
"""

from __future__ import annotations

import math
import re

from paredown.framework.recipe.tree.nodes import Scalar

__all__ = ["BOOLEAN", "FLOAT", "INTEGER", "NULL", "core_scalar"]

LONGEST_NUMBER = 40

#: what an unquoted scalar means, as regular expressions of the whole scalar, for ASCII text
NULL = r"~|null|Null|NULL|"
BOOLEAN = r"true|True|TRUE|false|False|FALSE"
INTEGER = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"


def core_scalar(text: str) -> Scalar:
    """The value of an unquoted scalar.

    >>> [core_scalar(text) for text in ("1e-3", "off", "0o17", "~", "true", "1:30")]
    [0.001, 'off', 15, None, True, '1:30']

    Raises:
        ValueError: a number with too many digits, or too large for a float.
    """
    if _is(NULL, text):
        return None
    if _is(BOOLEAN, text):
        return text.lower() == "true"
    if _is(INTEGER, text):
        return int(_short(text), 0 if text.startswith(("0o", "0x")) else 10)
    return _float(_short(text)) if _is(FLOAT, text) else text


def _is(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text, re.ASCII) is not None


def _short(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} characters; at most {LONGEST_NUMBER} are read")
    return text


def _float(text: str) -> float:
    if text[-1].isalpha():
        return float(text.replace(".", ""))  # .inf and .nan
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large for a number")
    return number
