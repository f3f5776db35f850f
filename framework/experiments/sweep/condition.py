"""Conditions on jobs, such as `accuracy >= dense - 0.01 and bytes <= 0.2 * dense`; parsed, and never run as code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from paredown.framework.errors import ArgumentError, did_you_mean
from paredown.framework.experiments.sweep.row import QUANTITIES, Row
from paredown.framework.recipe.tree.positions import shown
from paredown.framework.report.metrics import ACCURACY

__all__ = ["Condition"]

LONGEST = 500
ALLOWED = f"comparisons joined by `and`, of metrics, {', '.join(QUANTITIES)}, dense, numbers, + - * / and parentheses"
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Condition:
    """Comparisons of a job's quantities, all of which must hold.

    ``dense`` is the dense model's same quantity as the one it is compared with: in ``bytes <= 0.2 * dense`` its bytes.
    """

    text: str
    comparisons: tuple[ast.Compare, ...]
    known: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, known: Sequence[str] = (ACCURACY.name, *QUANTITIES)) -> Condition:
        """Parse a condition on quantities of these names.

        Raises:
            ArgumentError: it is more than ``ALLOWED`` allows.

        >>> Condition.parse("accuracy >= dense - 0.01 and bytes < 5e4").quantities
        ('accuracy', 'bytes')
        """
        if len(text) > LONGEST:
            raise _wrong(f"a condition of {len(text)} characters; at most {LONGEST} are read")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            comparisons = tuple(_joined(tree))
            for comparison in comparisons:
                _check(comparison, known)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise _wrong(f"{shown(text)} is no condition; it takes {ALLOWED}") from None
        return cls(text, comparisons, tuple(known))

    @property
    def quantities(self) -> tuple[str, ...]:
        """The quantities that the condition names, in their order."""
        return tuple(dict.fromkeys(name for comparison in self.comparisons for name in _named(comparison, self.known)))

    def holds(self, row: Row) -> bool:
        """Whether the condition holds for a job; it does not for one that lacks a quantity."""
        return all(_holds(comparison, row, self.known) for comparison in self.comparisons)


def _wrong(message: str) -> ArgumentError:
    return ArgumentError(message, "condition")


def _joined(tree: ast.expr) -> Iterator[ast.Compare]:
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    for part in parts:
        if isinstance(part, ast.BoolOp) and isinstance(part.op, ast.And):
            yield from _joined(part)
        elif isinstance(part, ast.Compare):
            yield part
        else:
            raise _wrong(f"{shown(ast.unparse(part))} is no comparison; a condition takes {ALLOWED}")


def _check(comparison: ast.Compare, known: Sequence[str]) -> None:
    for sign in comparison.ops:
        if type(sign) not in _COMPARISONS:
            raise _wrong(f"{shown(ast.unparse(comparison))}: it is compared by < <= > >= == !=")
    for side in (comparison.left, *comparison.comparators):
        _check_side(side, known)
    named = set(_named(comparison, known))
    has_dense = any(isinstance(node, ast.Name) and node.id == "dense" for node in ast.walk(comparison))
    if has_dense and len(named) != 1:
        found = "none" if not named else " and ".join(sorted(named))
        raise _wrong(f"{shown(ast.unparse(comparison))}: dense stands beside one quantity, found {found}")


def _check_side(node: ast.expr, known: Sequence[str]) -> None:
    if isinstance(node, ast.Name):
        if node.id not in (*known, "dense"):
            named = f"; it takes {', '.join(known)}, dense"
            raise _wrong(f"unknown name {node.id!r}{did_you_mean(node.id, (*known, 'dense'))}{named}")
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        _check_side(node.left, known)
        _check_side(node.right, known)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        _check_side(node.operand, known)
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        raise _wrong(f"{shown(ast.unparse(node))} has no place in a condition; it takes {ALLOWED}")


def _named(comparison: ast.Compare, known: Sequence[str]) -> list[str]:
    return [node.id for node in ast.walk(comparison) if isinstance(node, ast.Name) and node.id in known]


def _holds(comparison: ast.Compare, row: Row, known: Sequence[str]) -> bool:
    named = _named(comparison, known)
    values = {**row.compressed, **({"dense": row.dense[named[0]]} if named and named[0] in row.dense else {})}
    try:
        sides = [_value(side, values) for side in (comparison.left, *comparison.comparators)]
    except (KeyError, ZeroDivisionError, OverflowError):
        return False
    pairs = zip(comparison.ops, sides, sides[1:], strict=False)
    return all(_COMPARISONS[type(sign)](left, right) for sign, left, right in pairs)


def _value(node: ast.expr, values: dict[str, float]) -> float:
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.BinOp):
        return _ARITHMETIC[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.UnaryOp):
        operand = _value(node.operand, values)
        return -operand if isinstance(node.op, ast.USub) else operand
    return float(node.value)  # type: ignore[attr-defined]
