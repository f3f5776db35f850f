"""Values that are written into, whole or in part: by assignment to a slice, by an index, in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from paredown.framework.model.graph.trace import operator_name
from paredown.modifiers.pruning.removal.channels.labels import Value, compressed
from paredown.modifiers.pruning.removal.channels.walk import Result, Rule, Walk, meet, shape_of

__all__ = ["RULES", "is_write", "write_back"]

#: operators whose result is a view of their first operand
VIEWS = (
    *("slice", "select", "narrow", "view", "reshape", "flatten", "unflatten", "transpose", "permute", "t", "unsqueeze"),
    *("squeeze", "expand", "diagonal", "alias", "detach", "movedim", "swapaxes", "view_as", "T", "mT"),
)
#: operators that write their second operand where the view by the rest of the arguments has it
SCATTERED = {"slice_scatter": "slice", "select_scatter": "select", "diagonal_scatter": "diagonal"}


def is_write(node: Node) -> bool:
    """Whether an operator changes its first operand."""
    arguments: Any = getattr(getattr(node.target, "_schema", None), "arguments", ())
    return bool(arguments) and arguments[0].alias_info is not None and arguments[0].alias_info.is_write


def write_back(walk: Walk, node: Node, result: Value) -> None:
    """After a write into a value, or into a view of one: the labels of all that it is a view of."""
    written = node.args[0]
    assert isinstance(written, Node)
    walk.values[written] = result
    views = [written]
    while operator_name(views[-1]) in VIEWS and isinstance(views[-1].args[0], Node):
        views.append(views[-1].args[0])
    if len(views) > 1:
        base = views[-1]
        walk.values[base] = _into(walk, node, walk.value(base), _places(views[::-1]), result)


def _places(views: list[Node]) -> Tensor:
    """Where in the flat base each element of the last view lies."""
    base = shape_of(views[0])
    places = torch.arange(torch.Size(base).numel()).view(base)
    for view in views[1:]:
        target: Any = view.target
        if operator_name(view) in ("view", "reshape", "view_as"):
            places = places.reshape(shape_of(view))
        else:
            places = target(places, *view.args[1:], **view.kwargs)
    return places


def _into(walk: Walk, node: Node, base: Value, places: Tensor, part: Value) -> Value:
    """A base into which a part was written at these places: along all dimensions that the part does not fill with
    channels, what is beside it goes along."""
    where = walk.where(node)
    extended = []
    for factor in part.factors:
        found = _extended(factor.expand(part.shape), places, base.shape)
        if found is None:
            walk.labels.freeze(factor, f"{where} writes it into a part of a dimension")
        else:
            extended.append(found)
    if not extended:
        return base
    whole = Value(base.shape, tuple(extended))
    return meet(walk.labels, [base, whole], base.shape, where)


def _extended(factor: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A factor of a part as one of the base: along one dimension that it covers, or over all of it."""
    labels = torch.full((torch.Size(shape).numel(),), -1)
    labels[places.reshape(-1)] = factor.reshape(-1)
    labels = labels.view(shape)
    if not bool((labels < 0).any()):
        return compressed(labels)
    return next(_along_one(labels), None)


def _along_one(labels: Tensor) -> Iterator[Tensor]:
    for axis in range(labels.dim()):
        rows = labels.movedim(axis, 0).reshape(labels.shape[axis], -1)
        most = rows.amax(1)
        if labels.shape[axis] > 1 and bool((most >= 0).all()) and bool(((rows < 0) | (rows == most[:, None])).all()):
            yield most.view([-1 if each == axis else 1 for each in range(labels.dim())])


def _copied(walk: Walk, node: Node) -> Result:
    """Another value in the place of this one; both have one size."""
    operands = [walk.value(node.args[0]), walk.value(node.args[1])]
    return meet(walk.labels, operands, shape_of(node), walk.where(node))


def _put(walk: Walk, node: Node) -> Result:
    """x[index] = y, with an index that is known, or with a number."""
    value, new = walk.value(node.args[0]), walk.value(node.args[2])
    indices: Any = node.args[1]
    known = [None if each is None else walk.value(each) for each in indices]
    for axis, each in enumerate(known):
        if each is not None:
            walk.labels.forbid(value, axis, walk.where(node))
    if not new.factors:
        return Value(value.shape, value.factors)
    if any(each is not None and each.contents is None for each in known):
        walk.labels.freeze_all([value, new], f"{walk.where(node)} writes by the input")
        return Value(value.shape, value.factors)
    places = torch.arange(torch.Size(value.shape).numel()).view(value.shape)
    places = torch.ops.aten.index.Tensor(places, [None if each is None else each.contents for each in known])
    return _into(walk, node, value, places, _broadcast(new, tuple(places.shape)))


def _scattered(walk: Walk, node: Node) -> Result:
    value, new = walk.value(node.args[0]), walk.value(node.args[1])
    places = torch.arange(torch.Size(value.shape).numel()).view(value.shape)
    view: Any = getattr(torch.ops.aten, SCATTERED[operator_name(node)])
    places = view(places, *node.args[2:], **node.kwargs)
    return _into(walk, node, value, places, _broadcast(new, tuple(places.shape)))


def _broadcast(value: Value, shape: tuple[int, ...]) -> Value:
    factors = tuple(
        factor.reshape((1,) * (len(shape) - factor.dim()) + tuple(factor.shape)) for factor in value.factors
    )
    return Value(shape, factors)


RULES: dict[str, Rule] = {
    "copy": _copied,
    **dict.fromkeys(("index_put", "_unsafe_index_put"), _put),
    **dict.fromkeys(SCATTERED, _scattered),
}
