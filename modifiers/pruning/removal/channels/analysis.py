"""Walking through a model's graph with labels: which channels there are, and which go together."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map

from paredown.framework.model.graph.fusion import Graph
from paredown.framework.model.graph.trace import CHECKS, operator_name
from paredown.framework.model.targets import plain_name
from paredown.modifiers.pruning.removal.channels import (
    contractions,
    convolutions,
    elementwise,
    movement,
    normalization,
    positions,
    recurrent,
    writing,
)
from paredown.modifiers.pruning.removal.channels.labels import Labels, Value
from paredown.modifiers.pruning.removal.channels.solving import Classes, solve
from paredown.modifiers.pruning.removal.channels.walk import Result, Rule, Walk, shape_of

__all__ = ["Analysis", "analyse"]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **movement.RULES,
    **contractions.RULES,
    **convolutions.RULES,
    **recurrent.RULES,
    **normalization.RULES,
    **positions.RULES,
    **writing.RULES,
}
#: larger index tensors are not computed ahead
CONTENTS = 2**22


@dataclass(frozen=True)
class Analysis:
    """What goes together in a model.

    Attributes:
        graph: where it was read, of an eval forward.
        labels: all labels and where they come from.
        classes: what goes together, and what stays, with the reason.
        values: of the graph's nodes, and of those of a training forward where that was read too.
        unknown: the operators without a rule.
    """

    graph: Graph
    labels: Labels
    classes: Classes
    values: dict[Node, Any]
    unknown: tuple[str, ...]

    @functools.cached_property
    def along_heads(self) -> Tensor:
        """The classes of labels that lie along the batch of a product of activations: attention heads."""
        heads = self.labels.heads
        return torch.unique(self.classes.of[torch.cat(heads)]) if heads else torch.empty(0, dtype=torch.int64)


class _Analyst:
    def __init__(self, graph: Graph, model: nn.Module) -> None:
        self.walk = Walk(graph, Labels())
        self.tensors = _tensors(model)
        self.names = {id(tensor): name for name, tensor in reversed(self.tensors.items())}
        self.sources: dict[str, Value] = {}
        self.unknown: dict[str, None] = {}

    def run(self, graph: Graph) -> None:
        self.walk.graph = graph
        for node in graph.nodes:
            result = self._result(node)
            self.walk.values[node] = result
            if writing.is_write(node) and isinstance(result, Value):
                writing.write_back(self.walk, node, result)
            for value in result if isinstance(result, tuple) else (result,):
                for factor in value.factors:
                    self.walk.labels.whole(factor, self.walk.where(node))

    def _result(self, node: Node) -> Result:
        if node.op == "placeholder":
            return self._source(node)
        if node.op == "output":
            reason = "it is an output of the model"
            self.walk.labels.freeze_all(self.walk.operands(node), reason)
            return Value(())
        if node.target is operator.getitem:
            return self._item(node)
        if operator_name(node) in CHECKS:
            return Value(())
        return _with_contents(self.walk, node, self._applied(node))

    def _source(self, node: Node) -> Value:
        """A parameter or buffer, under whichever of its names, or an input of the model."""
        shape = shape_of(node)
        constant = self.walk.graph.constants.get(node)
        if constant is not None:
            return Value(shape, contents=_contents(constant))
        name = self.walk.graph.parameters.get(node)
        tensor = self.tensors.get(name) if name else None
        if tensor is None:
            return Value(shape)
        if not tensor.is_floating_point():
            return Value(shape, contents=_contents(tensor))
        own = self.names[id(tensor)]
        if own not in self.sources:
            self.sources[own] = Value(shape, tuple(self._factors(own, shape)))
        return self.sources[own]

    def _factors(self, name: str, shape: tuple[int, ...]) -> Any:
        for dimension, size in enumerate(shape):
            if size > 1:
                view = [-1 if axis == dimension else 1 for axis in range(len(shape))]
                yield self.walk.labels.new(name, dimension, size).view(view)

    def _item(self, node: Node) -> Value:
        source: Any = self.walk.values[node.args[0]]  # type: ignore[index]
        place: Any = node.args[1]
        if isinstance(source, tuple) and isinstance(place, int) and place < len(source):
            return source[place]  # type: ignore[no-any-return]
        return Value(shape_of(node))

    def _applied(self, node: Node) -> Result:
        name = operator_name(node)
        rule = RULES.get(name) or elementwise.rule_by_kind(node)
        operands = self.walk.operands(node)
        looks = any(operand.factors or operand.pliable or operand.loose for operand in operands)
        if not looks and name not in elementwise.CREATED:
            return _plain(node, bool(operands) and all(operand.pliable for operand in operands))
        if rule is not None:
            try:
                return rule(self.walk, node)
            except (RuntimeError, IndexError, TypeError, ValueError, KeyError, AttributeError, StopIteration):
                pass  # a form of the operator that the rule does not know
        self.unknown[name] = None
        self.walk.labels.freeze_all(operands, f"the operator {self.walk.where(node)} is not known")
        return _plain(node)


def analyse(graph: Graph, model: nn.Module, in_training: Graph | None = None) -> Analysis:
    """Find what goes together in a model.

    Args:
        graph: of the model, from `export_graph`.
        model: the model itself (unwrapped), for the identities of its tensors.
        in_training: the graph of a training forward, where that has parts that an eval forward has not.
    """
    analyst = _Analyst(graph, model)
    with torch.no_grad():
        for each in (graph, in_training):
            if each is not None:
                analyst.run(each)
        classes = solve(analyst.walk.labels)
    return Analysis(graph, analyst.walk.labels, classes, analyst.walk.values, tuple(analyst.unknown))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    parameters = {plain_name(name): each for name, each in model.named_parameters(remove_duplicate=False)}
    buffers = {plain_name(name): each for name, each in model.named_buffers(remove_duplicate=False)}
    return {**parameters, **buffers}


def _plain(node: Node, pliable: bool = False) -> Result:
    output = node.meta.get("val")
    if isinstance(output, (tuple, list)):
        return tuple(Value(tuple(part.shape) if isinstance(part, Tensor) else ()) for part in output)
    return Value(shape_of(node), pliable=pliable)


def _contents(tensor: Tensor) -> Tensor | None:
    return tensor.detach().cpu() if not tensor.is_floating_point() and tensor.numel() <= CONTENTS else None


def _with_contents(walk: Walk, node: Node, result: Result) -> Result:
    """Integers that do not depend on the inputs are computed: they are indices."""
    output = node.meta.get("val")
    if isinstance(result, tuple) or result.factors or not isinstance(output, Tensor):
        return result
    if output.is_floating_point() or output.is_complex() or output.numel() > CONTENTS:
        return result
    if any(walk.value(leaf).contents is None for leaf in tree_leaves((node.args, node.kwargs)) if _is_node(leaf)):
        return result
    target: Any = node.target
    read = lambda leaf: walk.value(leaf).contents if _is_node(leaf) else leaf  # noqa: E731
    try:
        args, kwargs = tree_map(read, (tuple(node.args), dict(node.kwargs)))
        kwargs = {key: torch.device("cpu") if key == "device" and each is not None else each
                  for key, each in kwargs.items()}  # fmt: skip
        return Value(result.shape, result.factors, result.pliable, target(*args, **kwargs))
    except Exception:  # an operator that cannot be run by itself: its contents stay unknown
        return result


def _is_node(leaf: Any) -> bool:
    return isinstance(leaf, Node)
