"""What a rule of an operator reads and returns: the values of a node's arguments, and the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from paredown.framework.model.graph.fusion import Graph
from paredown.framework.model.graph.trace import operator_name
from paredown.modifiers.pruning.removal.channels.labels import Axes, Labels, Pending, Value, aligned, axes_of

__all__ = ["Result", "Rule", "Walk", "meet", "shape_of"]

Result = Value | tuple[Value, ...]


@dataclass
class Walk:
    """A walk through a graph.

    Attributes:
        graph: from `export_graph`.
        labels: what is known so far.
        values: of the nodes behind.
    """

    graph: Graph
    labels: Labels
    values: dict[Node, Any] = field(default_factory=dict)

    def value(self, argument: Any) -> Value:
        """The value of an argument; of a number or None one without shape."""
        if isinstance(argument, Node):
            value = self.values[argument]
            return value if isinstance(value, Value) else Value(())
        return Value((), pliable=True)

    def operands(self, node: Node) -> list[Value]:
        """The values of all tensors among a node's arguments."""
        leaves = tree_leaves((node.args, node.kwargs))
        found = [self.values[leaf] for leaf in leaves if isinstance(leaf, Node)]
        return [value for value in found if isinstance(value, Value)]

    def argument(self, node: Node, place: int, name: str, default: Any = None) -> Any:
        """An argument by place or name."""
        return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)

    def where(self, node: Node) -> str:
        """The operator and its module, for people."""
        module = self.graph.module_of(node)
        return f"{operator_name(node)} in {module}" if module else operator_name(node)


Rule = Callable[[Walk, Node], Result]


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of a node's value for the example inputs."""
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()


def meet(labels: Labels, operands: Iterable[Value], shape: Sequence[int], where: str) -> Value:
    """The value of an elementwise operator: what meets goes together.

    Args:
        labels: where it is noted.
        operands: as broadcasting aligns them to ``shape``.
        shape: of the result.
        where: the operator, for people.
    """
    dimensions = len(shape)
    sized = []
    merged: list[Tensor] = []
    for operand in operands:
        factors = [aligned(factor, dimensions) for factor in operand.factors]
        shift = dimensions - len(operand.shape)
        sized.append((frozenset(axis + shift for axis in operand.sized), factors))
        for factor in factors:
            _merge(labels, merged, factor, where)
    kept = [factor for factor in merged if _fits(labels, factor, sized, where)]
    fixed: Axes = frozenset().union(*(axes for axes, _ in sized))
    loose = frozenset(axis for axis in range(dimensions) if shape[axis] > 1 and axis not in fixed)
    return Value(tuple(shape), tuple(kept), loose=loose)


def _merge(labels: Labels, merged: list[Tensor], factor: Tensor, where: str) -> None:
    for place, known in enumerate(merged):
        ours, theirs = axes_of(known), axes_of(factor)
        if ours == theirs:
            labels.unite(known, factor)
            return
        if ours & theirs:
            large, small = (known, factor) if len(ours) >= len(theirs) else (factor, known)
            if axes_of(small) <= axes_of(large):
                labels.pending.append(Pending(large, small, axes_of(small), where))
                merged[place] = large
            else:
                labels.freeze(large, f"{where} meets it along some of its dimensions")
                labels.freeze(small, f"{where} meets it along some of its dimensions")
            return
    merged.append(factor)


def _fits(labels: Labels, factor: Tensor, sized: Iterable[tuple[Axes, Sequence[Tensor]]], where: str) -> bool:
    """Whether a factor may go on: no operand has a fixed size along all of its axes."""
    for axes, factors in sized:
        common = axes & axes_of(factor)
        if common and not any(axes_of(own) & axes_of(factor) for own in factors):
            if axes_of(factor) <= common:
                labels.freeze(factor, f"{where} meets it with a value of fixed size")
                return False
            labels.pending.append(Pending(factor, None, common, where))
    return True
