"""Normalisations: each channel by itself, groups of channels, or over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.fx import Node

from paredown.modifiers.pruning.removal.channels.elementwise import mixed_along
from paredown.modifiers.pruning.removal.channels.labels import Value
from paredown.modifiers.pruning.removal.channels.walk import Result, Rule, Walk, meet

__all__ = ["RULES"]


def _batch_norm(walk: Walk, node: Node) -> Result:
    """Each channel by itself: batch-norm and instance-norm."""
    value = walk.value(node.args[0])
    parts = [Value(part.shape, part.factors) for part in map(walk.value, node.args[1:5]) if part.shape]
    walk.labels.passed += [factor.reshape(-1) for factor in walk.value(node.args[1]).factors]
    return _per_channel(walk, node, value, parts)


def _per_channel(walk: Walk, node: Node, value: Value, parts: Iterable[Value]) -> Value:
    dimensions = len(value.shape)
    others = [axis for axis in range(dimensions) if axis != 1]
    mixed = Value(value.shape, mixed_along(walk, node, value, others[1:], "mixes")) if dimensions > 2 else value
    along = [-1 if axis == 1 else 1 for axis in range(dimensions)]
    shaped = [Value(tuple(part.shape[0] if axis == 1 else 1 for axis in range(dimensions)),
                    tuple(factor.reshape(along) for factor in part.factors)) for part in parts]  # fmt: skip
    return meet(walk.labels, [mixed, *shaped], value.shape, walk.where(node))


def _group_norm(walk: Walk, node: Node) -> Result:
    """A whole group of channels has its own statistics."""
    value = walk.value(node.args[0])
    groups = int(walk.argument(node, 1, "num_groups"))
    parts = [part for part in (walk.value(each) for each in node.args[2:4]) if part.shape]
    result = _per_channel(walk, node, value, parts)
    for factor in result.factors:
        if factor.shape[1] > 1:
            split = factor.unflatten(1, (groups, factor.shape[1] // groups))  # type: ignore[no-untyped-call]
            if groups == 1:
                walk.labels.freeze(factor, f"{walk.where(node)} averages over all of its channels")
            elif groups < factor.shape[1]:
                walk.labels.unite_along(split, [2])
    return result


def _layer_norm(walk: Walk, node: Node) -> Result:
    """The last dimensions are averaged over."""
    value = walk.value(node.args[0])
    normalized: Any = node.args[1]
    dimensions = len(value.shape)
    axes = range(dimensions - len(normalized), dimensions)
    mixed = Value(value.shape, mixed_along(walk, node, value, axes, "averages over", keep=True))
    parts = [part for part in (walk.value(each) for each in node.args[2:4]) if part.shape]
    walk.labels.freeze_all(parts, f"{walk.where(node)} averages over all of its channels")
    return mixed


RULES: dict[str, Rule] = {
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training", "instance_norm"), _batch_norm),
    "group_norm": _group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
}
