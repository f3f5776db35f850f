"""Operators that only move data: they are run on the labels themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from paredown.framework.model.graph.trace import operator_name
from paredown.modifiers.pruning.removal.channels.labels import Record, Value, axes_of, compressed
from paredown.modifiers.pruning.removal.channels.walk import Result, Rule, Walk, shape_of

__all__ = ["RULES"]

VIEWS = ("view", "reshape", "flatten", "unflatten", "_unsafe_view", "ravel")
MOVES = (
    *("view", "reshape", "flatten", "unflatten", "transpose", "permute", "unsqueeze", "squeeze", "expand", "t", "T"),
    *("movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T", "mT", "adjoint", "flip", "fliplr", "flipud", "rot90"),
    *("repeat", "tile", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle", "_unsafe_view", "narrow", "slice"),
    *("split", "split_with_sizes", "tensor_split", "chunk", "unbind", "select", "roll", "unfold", "broadcast_to"),
    *("channel_shuffle", "unsafe_chunk", "unsafe_split", "hsplit", "diagonal", "diff_view", "ravel", "squeeze_copy"),
)
#: operators that take elements out at fixed places of the dimension that is their second argument
FIXED = ("select", "unbind", "unfold")


def _moved(walk: Walk, node: Node) -> Result:
    value = walk.value(node.args[0])
    _constrain(walk, node, value)
    if operator_name(node) in VIEWS:
        shape = shape_of(node)
        moved = tuple(compressed(_reshaped(factor, value.shape, shape)) for factor in value.factors)
        return Value(shape, moved, value.pliable)
    target: Any = node.target
    results = [target(factor.expand(value.shape), *node.args[1:], **node.kwargs) for factor in value.factors]
    shapes = node.meta["val"]
    if isinstance(shapes, Tensor):
        return Value(shape_of(node), tuple(compressed(result) for result in results), value.pliable)
    return tuple(
        Value(tuple(part.shape), tuple(compressed(result[place]) for result in results), value.pliable)
        for place, part in enumerate(shapes)
    )


def _reshaped(factor: Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    """A factor in another shape; leading and trailing dimensions that stay keep size 1 where it does not vary."""
    head = _common(before, after)
    tail = min(_common(before[::-1], after[::-1]), min(len(before), len(after)) - head)
    first, last = list(factor.shape[:head]), list(factor.shape[len(before) - tail :])
    middle = factor.expand([*first, *before[head : len(before) - tail], *last])
    return middle.reshape([*first, *after[head : len(after) - tail], *last])


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many first sizes are the same."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _constrain(walk: Walk, node: Node, value: Value) -> None:
    """Note what has to hold so that the operator does the same with fewer channels."""
    name, where = operator_name(node), walk.where(node)
    if name in FIXED:
        walk.labels.forbid(value, _dimension(walk, node, value, 1), where)
    elif name == "roll":
        dimensions = walk.argument(node, 2, "dims", [])
        for dimension in dimensions or range(len(value.shape)):
            walk.labels.forbid(value, dimension % len(value.shape), where)
    elif name == "channel_shuffle":
        _equal_parts(walk, value, 1, int(walk.argument(node, 1, "groups")), where)
    elif name in ("chunk", "unsafe_chunk", "split", "unsafe_split", "split_with_sizes", "tensor_split"):
        dimension = _dimension(walk, node, value, 2)
        sizes = {part.shape[dimension] for part in node.meta["val"]}
        if len(sizes) == 1:
            _equal_parts(walk, value, dimension, len(node.meta["val"]), where)
    elif name == "slice":
        _constrain_slice(walk, node, value, where)


def _constrain_slice(walk: Walk, node: Node, value: Value, where: str) -> None:
    """A half, a third and the like of a dimension stays one; a step other than 1 takes fixed places."""
    dimension = _dimension(walk, node, value, 1)
    whole, part = value.shape[dimension], shape_of(node)[dimension]
    start = int(walk.argument(node, 2, "start", 0) or 0)
    if int(walk.argument(node, 4, "step", 1)) != 1:
        walk.labels.forbid(value, dimension, where)
    elif part and part != whole and whole % part == 0 and start % part == 0:
        _equal_parts(walk, value, dimension, whole // part, where)


def _equal_parts(walk: Walk, value: Value, dimension: int, parts: int, where: str) -> None:
    """As many channels have to go from each of the parts of a dimension: those at the same place in it."""
    for factor in value.factors:
        if factor.shape[dimension] > 1 and parts > 1:
            split = factor.unflatten(dimension, (parts, factor.shape[dimension] // parts))  # type: ignore[no-untyped-call]
            walk.labels.records.append(Record(split, where, frozenset({dimension})))


def _dimension(walk: Walk, node: Node, value: Value, place: int) -> int:
    return int(walk.argument(node, place, "dim", 0)) % max(len(value.shape), 1)


def _joined(walk: Walk, node: Node) -> Result:
    """cat and stack: what has no labels where the others have some is of a fixed size."""
    parts: Any = node.args[0]
    values = [value for value in map(walk.value, parts) if value.shape != (0,)]
    shape = shape_of(node)
    axis = int(walk.argument(node, 1, "dim", 0)) % len(shape)
    if operator_name(node) == "stack":
        values = [_unsqueezed(value, axis) for value in values]
    kinds = dict.fromkeys(_kind(factor, axis) for value in values for factor in value.factors)
    factors = tuple(_joined_factor(walk, values, kind, axis, walk.where(node)) for kind in kinds)
    return Value(shape, factors, all(value.pliable for value in values) and not factors)


def _unsqueezed(value: Value, axis: int) -> Value:
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    return Value(shape, tuple(factor.unsqueeze(axis) for factor in value.factors), value.pliable)


def _kind(factor: Tensor, axis: int) -> frozenset[int]:
    """Factors of one kind continue each other: they vary along the same axes, the joined one aside."""
    return axes_of(factor) - {axis} or frozenset({axis})


def _joined_factor(walk: Walk, values: list[Value], kind: frozenset[int], axis: int, where: str) -> Tensor:
    pieces = []
    for value in values:
        own = [factor for factor in value.factors if _kind(factor, axis) == kind]
        if len(own) > 1:
            walk.labels.freeze_all([value], f"{where} joins values with several kinds of channels")
        if own:
            pieces.append((own[0], value.shape[axis]))
        else:
            fixed = walk.labels.unknown(1, f"{where} joins it with a value of fixed size")
            pieces.append((fixed.reshape([1] * len(value.shape)), value.shape[axis]))
    if all(piece.shape[axis] == 1 for piece, _ in pieces) and kind != {axis}:
        for piece, _ in pieces[1:]:
            walk.labels.unite(pieces[0][0], piece)
        return max((piece for piece, _ in pieces), key=Tensor.numel)
    common = [max(piece.shape[each] for piece, _ in pieces) for each in range(len(values[0].shape))]
    expanded = [piece.expand([size if each == axis else common[each] for each in range(len(common))])
                for piece, size in pieces]  # fmt: skip
    return compressed(torch.cat(expanded, axis))


def _padded(walk: Walk, node: Node) -> Result:
    """What is added along an axis of channels is fixed; elsewhere each channel is padded by itself."""
    value = walk.value(node.args[0])
    widths: Any = node.args[1]
    shape, factors = shape_of(node), []
    for factor in value.factors:
        own = list(widths)
        for place in range(len(own) // 2):
            if factor.shape[len(shape) - 1 - place] == 1:
                own[2 * place] = own[2 * place + 1] = 0
        if any(own):
            fixed = walk.labels.unknown(1, f"{walk.where(node)} adds channels of fixed number")
            factor = nn.functional.pad(factor, own, value=int(fixed))
        factors.append(factor)
    return Value(shape, tuple(factors))


def _indexed(walk: Walk, node: Node) -> Result:
    """x[:, index]: along an axis of channels only an index that is known, and nothing can go there then."""
    value = walk.value(node.args[0])
    given: Any = node.args[1] if operator_name(node) == "index" else [*[None] * _index_axis(node), node.args[2]]
    known = [None if each is None else walk.value(each) for each in given]
    shape, where, factors = shape_of(node), walk.where(node), []
    for factor in value.factors:
        indexed = [axis for axis, each in enumerate(known) if each is not None and factor.shape[axis] > 1]
        for axis in indexed:
            walk.labels.forbid(Value(value.shape, (factor,)), axis, where)
        if any(each is not None and each.contents is None and axis in indexed for axis, each in enumerate(known)):
            walk.labels.freeze(factor, f"{where} picks from it by the input")
            continue
        index = [None if each is None else _index_of(each, axis in indexed) for axis, each in enumerate(known)]
        target = torch.ops.aten.index.Tensor
        factors.append(compressed(target(factor.expand(value.shape), index).expand(shape)))
    return Value(shape, tuple(factors))


def _index_of(value: Value, matters: bool) -> Tensor:
    if matters and value.contents is not None:
        return value.contents
    return torch.zeros(value.shape, dtype=torch.int64)


def _index_axis(node: Node) -> int:
    axis: Any = node.args[1]
    return int(axis) % len(node.args[0].meta["val"].shape)  # type: ignore[union-attr]


def _viewed_as(walk: Walk, node: Node) -> Result:
    value, shape = walk.value(node.args[0]), shape_of(node)
    grow = "expand" in operator_name(node)
    moved = [f.expand(value.shape).expand(shape) if grow else f.expand(value.shape).reshape(shape)
             for f in value.factors]  # fmt: skip
    return Value(shape, tuple(map(compressed, moved)), value.pliable)


RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _joined),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **dict.fromkeys(("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"), _padded),
    **dict.fromkeys(("index", "index_select"), _indexed),
    **dict.fromkeys(("view_as", "reshape_as", "expand_as"), _viewed_as),
}
