"""Translates `eval(...)` of an old recipe to interpolations and `${expr:"..."}`; it is parsed, never run."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from paredown.framework.recipe.resolving.expression import SYMBOLS, syntax

__all__ = ["Part", "is_evaluated", "names_in", "parts_of", "written"]

#: text of an expression, or (in a tuple of one) the name of a variable
Part = str | tuple[str]

LONGEST = 400
FUNCTIONS = ("min", "max", "round", "int", "float")
#: how tightly operators bind, by their symbols
_STRENGTHS = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "**": 4}
_UNARY = 3


def is_evaluated(value: object) -> bool:
    """Whether a value is an expression of SparseML."""
    return isinstance(value, str) and value.strip().startswith("eval(")


def _tree(text: str) -> ast.expr:
    """The syntax tree of an expression.

    Raises:
        ValueError: not an expression.
    """
    if len(text) > LONGEST:
        raise ValueError(f"an expression of {len(text)} characters; at most {LONGEST} are read")
    try:
        return syntax(text)
    except SyntaxError:
        raise ValueError(f"{text}: not an expression") from None


def parts_of(text: str) -> list[Part]:
    """The expression in the recipe's own language, names of variables apart.

    >>> parts_of("eval(num_epochs * 0.6 + eval(start % 2))")
    [('num_epochs',), ' * ', '0.6', ' + ', 'mod(', ('start',), ', ', '2', ')']

    Raises:
        ValueError: anything but numbers, variables, arithmetic and a few functions; it is named.
    """
    try:
        return list(_parts(_tree(text), 0))
    except RecursionError:
        raise ValueError("an expression that is nested too deeply") from None


def names_in(text: str) -> list[str]:
    """The variables that an expression names."""
    return [part[0] for part in parts_of(text) if isinstance(part, tuple)]


def written(parts: list[Part], name: Callable[[str], str]) -> str:
    """An interpolation: of the variable, where the expression is no more than that.

    >>> written([("a",)], str), written([("a",), " * ", "2"], str)
    ('${variables.a}', '${expr:"${variables.a} * 2"}')
    """
    text = "".join(part if isinstance(part, str) else f"${{variables.{name(part[0])}}}" for part in parts)
    return text if len(parts) == 1 and isinstance(parts[0], tuple) else f'${{expr:"{text}"}}'


def _parts(node: ast.expr, outside: int) -> Iterator[Part]:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        yield repr(node.value)
    elif isinstance(node, ast.Name):
        yield (node.id,)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        sign = "-" if isinstance(node.op, ast.USub) else ""
        yield from _enclosed([sign, *_parts(node.operand, _UNARY)], outside > _UNARY)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        yield from _called("mod", [node.left, node.right])
    elif isinstance(node, ast.BinOp) and type(node.op) in SYMBOLS:
        yield from _binary(node, outside)
    elif isinstance(node, ast.Call) and not node.keywords:
        yield from _function(node, outside)
    else:
        raise _refused(node)


def _binary(node: ast.BinOp, outside: int) -> Iterator[Part]:
    symbol = SYMBOLS[type(node.op)]
    strength = _STRENGTHS[symbol]
    right_to_left = isinstance(node.op, ast.Pow)
    left = _parts(node.left, strength + right_to_left)
    right = _parts(node.right, strength + (not right_to_left))
    yield from _enclosed([*left, f" {symbol} ", *right], strength < outside)


def _function(node: ast.Call, outside: int) -> Iterator[Part]:
    name = ast.unparse(node.func)
    if name == "eval" and len(node.args) == 1:
        yield from _parts(node.args[0], outside)
    elif name in FUNCTIONS:
        yield from _called(name, node.args)
    elif name == "math.floor" and len(node.args) == 1:
        yield from _enclosed([*_parts(node.args[0], 2), " // ", "1"], outside >= 2)
    elif name == "math.ceil" and len(node.args) == 1:
        yield from _enclosed(["-(-", *_parts(node.args[0], _UNARY), " // ", "1)"], outside > _UNARY)
    else:
        raise _refused(node)


def _called(name: str, arguments: list[ast.expr]) -> Iterator[Part]:
    yield f"{name}("
    for index, argument in enumerate(arguments):
        yield from ([", "] if index else [])
        yield from _parts(argument, 0)
    yield ")"


def _enclosed(parts: list[Part], needed: bool) -> list[Part]:
    return ["(", *parts, ")"] if needed else [part for part in parts if part]


def _refused(node: ast.expr) -> ValueError:
    allowed = f"it takes numbers, variables, + - * / // % **, {', '.join(FUNCTIONS)}, math.floor and math.ceil"
    return ValueError(f"{ast.unparse(node)} has no place in an expression; {allowed}")
