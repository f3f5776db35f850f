"""Convolutions with groups, and embeddings."""

from __future__ import annotations

from torch import Tensor
from torch.fx import Node

from paredown.framework.model.graph.trace import CONVOLUTIONS, TRANSPOSED, operator_name
from paredown.modifiers.pruning.removal.channels.labels import Labels, Value, axes_of
from paredown.modifiers.pruning.removal.channels.walk import Result, Rule, Walk, meet, shape_of

__all__ = ["RULES", "along", "by_whole_groups", "together"]


def by_whole_groups(groups: int, inputs: int, outputs: int) -> bool:
    """Whether whole groups of a grouped convolution go: where it has more of them than a group has channels. Else the
    same places of all groups go, its inputs apart from its outputs.

    Args:
        groups: how many.
        inputs, outputs: channels of each group.
    """
    return groups > max(1, min(inputs, outputs))


def along(value: Value, axis: int) -> Tensor | None:
    """The labels along one axis, of shape (size,); None where they vary along none or others too."""
    found = [factor for factor in value.factors if axes_of(factor) == {axis}]
    return found[0].reshape(-1) if len(found) == 1 else None


def _convolution(walk: Walk, node: Node) -> Result:
    value, weight = walk.value(node.args[0]), walk.value(node.args[1])
    name, where = operator_name(node), walk.where(node)
    transposed = name in TRANSPOSED
    groups = int(walk.argument(node, 6, "groups", 1))
    axis = len(value.shape) - int(name[-2]) - 1
    inputs, passed = _inputs(walk, value, axis, where)
    out = _outputs(walk.labels, weight, inputs, value.shape[axis], groups, transposed, where)
    shape = shape_of(node)
    factors = [factor for factor in passed if factor.dim() == len(shape)]
    if out is not None:
        walk.labels.produced.append(out)
        factors.append(out.reshape([-1 if each == axis else 1 for each in range(len(shape))]))
    bias = walk.value(walk.argument(node, 2, "bias"))
    if not bias.shape:
        return Value(shape, tuple(factors))
    spread = [-1 if each == axis else 1 for each in range(len(shape))]
    own = Value(tuple(bias.shape[0] if each == axis else 1 for each in range(len(shape))),
                tuple(factor.reshape(spread) for factor in bias.factors))  # fmt: skip
    return meet(walk.labels, [Value(shape, tuple(factors)), own], shape, where)


def _inputs(walk: Walk, value: Value, axis: int, where: str) -> tuple[Tensor | None, list[Tensor]]:
    """The labels of the input channels, and the factors along the batch, which pass."""
    channels, passed = None, []
    for factor in value.factors:
        varies = axes_of(factor)
        if axis in varies and channels is None:
            channels = walk.labels.unite_along(factor, varies - {axis}).reshape(-1)
        elif max(varies) < axis:
            passed.append(factor)
        else:
            walk.labels.freeze(factor, f"{where} sums over all of its channels")
    return channels, passed


def _outputs(
    labels: Labels, weight: Value, inputs: Tensor | None, channels: int, groups: int, transposed: bool, where: str
) -> Tensor | None:
    """Note what goes together; the labels of the output channels."""
    first, second = along(weight, 0), along(weight, 1)
    for factor in weight.factors:
        if axes_of(factor) not in ({0}, {1}):
            labels.freeze(factor, f"{where} slides over it")
    if groups == 1:
        taken, made = (first, second) if transposed else (second, first)
        together(labels, inputs, taken, where)
        return made
    width = channels // groups
    outputs = (weight.shape[1] * groups if transposed else weight.shape[0]) // groups
    if by_whole_groups(groups, width, outputs):
        return _whole_groups(labels, inputs, first, second, groups, outputs, where)
    return _same_places(labels, inputs, first, second, groups, transposed, where)


def together(labels: Labels, inputs: Tensor | None, taken: Tensor | None, where: str) -> None:
    """Channels that come in, and the slices of a weight that take them; where one is missing, the other stays."""
    if taken is not None:
        labels.read.append(taken)
    if inputs is not None and taken is not None:
        labels.unite(inputs, taken)
        return
    for other in (inputs, taken):
        if other is not None:
            labels.freeze(other, f"{where} sums over channels that cannot go")


def _whole_groups(
    labels: Labels, inputs: Tensor | None, first: Tensor | None, second: Tensor | None, groups: int, outputs: int,
    where: str
) -> Tensor | None:  # fmt: skip
    """A group goes with all of its inputs and outputs."""
    if second is not None:
        labels.freeze(second, f"{where} removes whole groups")
    if first is None:
        return None
    by_group = labels.unite_along(first.reshape(groups, -1), [1])
    if inputs is None:
        labels.freeze(first, f"{where} reads channels that cannot go")
    else:
        labels.unite(inputs.reshape(groups, -1), by_group)
        labels.passed.append(first)
    if first.numel() == groups * outputs:
        return first
    return by_group.expand(groups, outputs).reshape(-1)


def _same_places(
    labels: Labels, inputs: Tensor | None, first: Tensor | None, second: Tensor | None, groups: int, transposed: bool,
    where: str
) -> Tensor | None:  # fmt: skip
    """The channels at the same place of all groups go together."""
    by_place = None if first is None else labels.unite_along(first.reshape(groups, -1), [0]).reshape(-1)
    taken, made = (by_place, second) if transposed else (second, by_place)
    united = None if inputs is None else labels.unite_along(inputs.reshape(groups, -1), [0]).reshape(-1)
    together(labels, united, taken, where)
    if transposed:
        return None if made is None else made.repeat(groups)
    return first


def _embedding(walk: Walk, node: Node) -> Result:
    weight, index = walk.value(node.args[0]), walk.value(node.args[1])
    rows, columns = along(weight, 0), along(weight, 1)
    walk.labels.freeze_all([index], f"{walk.where(node)} reads it as numbers")
    if rows is not None:
        walk.labels.freeze(rows, f"{walk.where(node)} picks from it by the input")
    shape = shape_of(node)
    if columns is None:
        return Value(shape)
    walk.labels.produced.append(columns)
    return Value(shape, (columns.reshape((1,) * (len(shape) - 1) + (-1,)),))


RULES: dict[str, Rule] = {
    **dict.fromkeys(CONVOLUTIONS + TRANSPOSED, _convolution),
    "embedding": _embedding,
}
