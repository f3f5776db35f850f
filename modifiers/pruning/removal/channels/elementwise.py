"""Operators that work element by element, or mix elements along some dimensions only: reductions, pooling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from paredown.framework.model.graph.trace import operator_name
from paredown.modifiers.pruning.removal.channels.labels import Value, axes_of
from paredown.modifiers.pruning.removal.channels.walk import Result, Rule, Walk, meet, shape_of

__all__ = ["RULES", "elementwise", "mixed_along", "rule_by_kind"]

POINTWISE = (
    *("dropout", "alpha_dropout", "feature_dropout", "to", "_to_copy", "contiguous", "alias", "detach", "type_as"),
    *("lift_fresh_copy", "hardswish", "rsub", "floor_divide", "float", "double", "half", "bfloat16", "relu6", "selu"),
    *("where", "masked_fill", "logsigmoid", "log_sigmoid", "hardshrink", "softsign", "tanhshrink", "requires_grad"),
    *("lerp", "clamp", "clip", "square", "nan_to_num", "rrelu", "silu", "gelu", "mish", "hardsigmoid", "positive"),
    *("data", "resolve_conj", "resolve_neg", "view_as_same", "zeros_like", "ones_like", "full_like", "empty_like"),
    *("real", "imag", "conj", "angle", "fill", "zero", "clone", "masked_scatter", "detach_copy", "polar", "complex"),
)
CREATED = ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor")
REDUCTIONS = (
    *("mean", "sum", "amax", "amin", "prod", "var", "std", "any", "all", "norm", "linalg_vector_norm", "logsumexp"),
    *("max", "min", "argmax", "argmin", "median", "var_mean", "std_mean", "count_nonzero", "aminmax"),
)
#: the result has the shape of the operand, and mixes along the dimension
MIXING = ("softmax", "log_softmax", "_softmax", "cumsum", "cumprod", "sort", "argsort", "softmin", "logcumsumexp")
SPATIAL = re.compile(r"(?:pool|upsample_\w+?)(\d)d")


def elementwise(walk: Walk, node: Node) -> Result:
    """Operands that meet go together."""
    if operator_name(node).endswith("_like"):
        return Value(shape_of(node), pliable=True)
    operands = walk.operands(node)
    value = meet(walk.labels, operands, shape_of(node), walk.where(node))
    pliable = bool(operands) and all(operand.pliable for operand in operands)
    return Value(value.shape, value.factors, pliable, loose=value.loose)


def mixed_along(
    walk: Walk, node: Node, value: Value, axes: Iterable[int], does: str, keep: bool = False
) -> tuple[Tensor, ...]:
    """The factors of a value after its elements were mixed along axes, of size 1 there.

    Channels that lie along other axes too go as a whole; those that lie only along the axes stay (and are passed on
    with ``keep``, where the result has the same axes).
    """
    axes = frozenset(axes)
    mixed = []
    for factor in value.factors:
        if not axes_of(factor) & axes:
            mixed.append(factor)
        elif axes_of(factor) <= axes:
            walk.labels.freeze(factor, f"{walk.where(node)} {does} all of its channels")
            mixed += [factor] if keep else []
        else:
            mixed.append(walk.labels.unite_along(factor, axes))
    return tuple(mixed)


def _created(walk: Walk, node: Node) -> Result:
    return Value(shape_of(node), pliable=True)


def _reduced(walk: Walk, node: Node) -> Result:
    value = walk.value(node.args[0])
    place = 2 if operator_name(node) in ("norm", "linalg_vector_norm") else 1
    given: Any = walk.argument(node, place, "dim")
    if isinstance(given, Node):  # torch.maximum under another name
        return elementwise(walk, node)
    dimensions = len(value.shape)
    listed = [given] if isinstance(given, int) else list(given or range(dimensions))
    axes = {axis % dimensions for axis in listed} if dimensions else set()
    factors = mixed_along(walk, node, value, axes, "reduces")
    outputs = node.meta["val"]
    results = []
    for output in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
        shape = tuple(output.shape)
        own = factors
        if len(shape) != dimensions:
            own = tuple(factor.squeeze(tuple(axes)) for factor in factors)
        results.append(Value(shape, own))
    return tuple(results) if isinstance(outputs, (tuple, list)) else results[0]


def _mixing(walk: Walk, node: Node) -> Result:
    value = walk.value(node.args[0])
    axis = int(walk.argument(node, 1, "dim", -1)) % max(len(value.shape), 1)
    factors = mixed_along(walk, node, value, [axis], "runs over", keep=True)
    output = node.meta["val"]
    made = Value(value.shape, factors)
    return made if isinstance(output, Tensor) else tuple(made for _ in output)


def _pooled(walk: Walk, node: Node) -> Result:
    """Pooling and resampling mix the dimensions behind the channels'."""
    value = walk.value(node.args[0])
    found = SPATIAL.search(operator_name(node))
    dimensions, spatial = len(value.shape), int(found[1]) if found else 0
    factors = mixed_along(walk, node, value, range(dimensions - spatial, dimensions), "mixes")
    outputs = node.meta["val"]
    if isinstance(outputs, Tensor):
        return Value(shape_of(node), factors)
    return tuple(Value(tuple(output.shape), factors) for output in outputs)


def _glu(walk: Walk, node: Node) -> Result:
    """The first half times the sigmoid of the second."""
    value = walk.value(node.args[0])
    axis = int(walk.argument(node, 1, "dim", -1)) % len(value.shape)
    factors = []
    for factor in value.factors:
        if factor.shape[axis] > 1:
            first, second = factor.chunk(2, axis)
            walk.labels.unite(first, second)
            factor = first
        factors.append(factor)
    return Value(shape_of(node), tuple(factors))


def _prelu(walk: Walk, node: Node) -> Result:
    value, slope = walk.value(node.args[0]), walk.value(node.args[1])
    dimensions = len(value.shape)
    along = [-1 if axis == min(1, dimensions - 1) else 1 for axis in range(dimensions)]
    slopes = Value(tuple(slope.shape[0] if each == -1 else 1 for each in along),
                   tuple(factor.reshape(along) for factor in slope.factors))  # fmt: skip
    return meet(walk.labels, [value, slopes], value.shape, walk.where(node))


def _triangle(walk: Walk, node: Node) -> Result:
    value = walk.value(node.args[0])
    for axis in (-2, -1):
        walk.labels.forbid(value, axis % len(value.shape), walk.where(node))
    return Value(value.shape, value.factors)


RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, elementwise),
    **dict.fromkeys(CREATED, _created),
    **dict.fromkeys(REDUCTIONS, _reduced),
    **dict.fromkeys(MIXING, _mixing),
    "glu": _glu,
    "prelu": _prelu,
    "tril": _triangle,
    "triu": _triangle,
}


def rule_by_kind(node: Node) -> Rule | None:
    """The rule of an operator that is known by torch's tags, or by a part of its name."""
    tags = getattr(node.target, "tags", ())
    if torch.Tag.pointwise in tags:
        return elementwise
    return _pooled if SPATIAL.search(operator_name(node)) else None
