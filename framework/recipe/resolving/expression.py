"""Evaluates the expressions of `${expr:"..."}`: they are parsed by Python's grammar, and never run as code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from paredown.framework.errors import did_you_mean
from paredown.framework.recipe.resolving.quantities import (
    FUNCTIONS,
    OPERATORS,
    Quantity,
    bounded,
    negated,
    plain_quantity,
    quantity,
)
from paredown.framework.recipe.tree.positions import shown

__all__ = ["SYMBOLS", "evaluate", "syntax"]

LONGEST = 500
MOST_TOKENS = 200
ALLOWED = f'numbers, times ("500 steps", "60%"), + - * / // **, parentheses, {" ".join(FUNCTIONS)}'

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_TOKEN = re.compile(
    rf"""\s*(?:
    (?P<time>{_NUMBER}\s*(?:(?:steps?|epochs?)\b|%(?!\s*[\w.('"])))
    |(?P<number>{_NUMBER}(?:[eE][+-]?\d{{1,3}})?)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<quoted>'[^']*'|"[^"]*")
    |(?P<operator>\*\*|//|[-+*/(),%])
    )""",
    re.VERBOSE | re.ASCII,
)
#: the operators, as Python's grammar names them and as they are written
SYMBOLS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Pow: "**",
}


def evaluate(parts: Sequence[str | tuple[object]]) -> int | float | str:
    """The result of an expression.

    Args:
        parts: pieces of its text, and between them values (each in a tuple of one) in place of interpolations: they
            enter as values, not as text, so that ``${a} * 2`` is right for any ``a``.

    >>> evaluate(["min(3, ", (2,), ") * 0.1"]), evaluate([("60%",), " / 2"])
    (0.2, '30%')

    Raises:
        ValueError: anything but what ``ALLOWED`` names; units that do not mix; division by zero; too large.
    """
    values: dict[str, Quantity] = {}
    text = _with_names(parts, values)
    try:
        tree = syntax(" ".join(_tokens(text, values)))
        return plain_quantity(_walk(tree, values))
    except OverflowError:
        raise ValueError("a number in it becomes too large") from None
    except (SyntaxError, RecursionError):
        raise ValueError(f"not an expression; it takes {ALLOWED}") from None


def syntax(text: str) -> ast.expr:
    """The tree of an expression by Python's grammar; nothing of it is run.

    Raises:
        SyntaxError: it is not an expression, or too large or too deep for Python's parser.
    """
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error)) from None


def _with_names(parts: Sequence[str | tuple[object]], values: dict[str, Quantity]) -> str:
    """The text with a fresh name for each value."""
    written = "".join(part for part in parts if isinstance(part, str))
    if len(written) > LONGEST:
        raise ValueError(f"an expression of {len(written)} characters; at most {LONGEST} are read")
    text = ""
    for part in parts:
        text += part if isinstance(part, str) else _bound(quantity(part[0]), values, written)
    return text


def _bound(value: Quantity, values: dict[str, Quantity], taken: str) -> str:
    name = f"v{len(values)}_"
    while name in taken:
        name += "_"
    values[name] = value
    return name


def _tokens(text: str, values: dict[str, Quantity]) -> Iterator[str]:
    """The tokens of an expression, numbers and times replaced by names."""
    start = count = 0
    while text[start:].strip():
        match = _TOKEN.match(text, start)
        if match is None or count >= MOST_TOKENS:
            rest = text[start:].strip()
            raise ValueError(f"{shown(rest[:1])} has no place in an expression; it takes {ALLOWED}")
        start, count = match.end(), count + 1
        token = match[str(match.lastgroup)]
        if match.lastgroup == "number":
            token = _bound(bounded(Fraction(token)), values, text)
        elif match.lastgroup in ("time", "quoted"):
            token = _bound(quantity(token.strip("'\"")), values, text)
        elif token == "%":
            raise ValueError('% is no operator; mod(a, b) is the remainder, and "60%" a time')
        yield token


def _walk(node: ast.expr, values: dict[str, Quantity]) -> Quantity:
    if isinstance(node, ast.Name):
        return _named(node.id, values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        operand = _walk(node.operand, values)
        return negated(operand) if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp) and type(node.op) in SYMBOLS:
        left, right = _walk(node.left, values), _walk(node.right, values)
        return bounded(OPERATORS[SYMBOLS[type(node.op)]](left, right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _called(node.func.id, [_walk(argument, values) for argument in node.args])
    raise ValueError(f"not an expression; it takes {ALLOWED}")


def _named(name: str, values: dict[str, Quantity]) -> Quantity:
    if name in values:
        return values[name]
    if name in FUNCTIONS:
        raise ValueError(f"{name} is a function; write {name}(...)")
    near = did_you_mean(name, FUNCTIONS)
    raise ValueError(f"unknown name {name!r}{near or f'; a value of the recipe is ${{variables.{name}}}'}")


def _called(name: str, arguments: list[Quantity]) -> Quantity:
    if name not in FUNCTIONS:
        raise ValueError(f"unknown function {name!r}{did_you_mean(name, FUNCTIONS) or '; it takes ' + ALLOWED}")
    function, fewest, most = FUNCTIONS[name]
    if not fewest <= len(arguments) <= most:
        wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise ValueError(f"{name} takes {wanted} arguments, found {len(arguments)}")
    return bounded(function(*arguments))
