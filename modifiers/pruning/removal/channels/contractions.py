"""Products that sum over a dimension: linear layers, matmul, einsum, attention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.fx import Node

from paredown.modifiers.pruning.removal.channels.labels import Labels, Value, aligned, axes_of
from paredown.modifiers.pruning.removal.channels.walk import Result, Rule, Walk, meet, shape_of

__all__ = ["RULES", "contract"]


def contract(labels: Labels, first: Value, second: Value, equation: str, where: str) -> Value:
    """The product of two values, summed over the letters that are missing in the result.

    Summed dimensions go together, and so do those of a batch (attention's heads). Where channels lie along the batch
    and within, a whole element of the batch goes; where they lie along a summed dimension and a free one, the same
    place of all.

    Args:
        labels: where it is noted.
        first, second: as the equation's operands.
        equation: as `torch.einsum` reads it, a letter a dimension: ``"bnk,ok->bno"``.
        where: the operator, for people.
    """
    operands, out = equation.split("->")
    one, two = operands.split(",")
    both = set(one) & set(two)
    batch, summed = both & set(out), both - set(out)
    ours = _parts(labels, first, one, batch, summed, where)
    theirs = _parts(labels, second, two, batch, summed, where)
    _meet_along(labels, first, one, ours, second, two, theirs, sorted(summed), where)
    together = _meet_along(labels, first, one, ours, second, two, theirs, sorted(batch), where)
    labels.heads += [factor.reshape(-1) for factor in together.factors]
    factors = [_placed(factor, "".join(sorted(batch)), out) for factor in together.factors]
    for operand, letters, parts in ((first, one, ours), (second, two, theirs)):
        if _is_weight(operand):
            labels.read += [factor.reshape(-1) for kind, factor in parts if kind <= summed]
        for kind, factor in parts:
            if kind <= set(out) - both:
                if _is_weight(operand):
                    labels.produced.append(factor.reshape(-1))
                factors.append(_placed(factor, letters, out))
    sizes = {**dict(zip(one, first.shape, strict=True)), **_larger(two, second.shape, one, first.shape)}
    return Value(tuple(sizes[letter] for letter in out), tuple(factors))


def _is_weight(value: Value) -> bool:
    """Whether every dimension has labels of its own, as a parameter's have."""
    own = {axis for factor in value.factors for axis in axes_of(factor) if len(axes_of(factor)) == 1}
    return all(axis in own for axis, size in enumerate(value.shape) if size > 1)


def _larger(two: str, shape: tuple[int, ...], one: str, other: tuple[int, ...]) -> dict[str, int]:
    known = dict(zip(one, other, strict=True))
    return {letter: max(size, known.get(letter, size)) for letter, size in zip(two, shape, strict=True)}


def _parts(
    labels: Labels, value: Value, letters: str, batch: set[str], summed: set[str], where: str
) -> list[tuple[set[str], Tensor]]:
    """The factors of an operand, each along dimensions of one kind only."""
    parts = []
    for factor in value.factors:
        along = {letters[axis] for axis in axes_of(factor)}
        for kind in (batch, summed):
            if along & kind and along - kind:
                factor = labels.unite_along(factor, [letters.index(letter) for letter in along - kind])
                along &= kind
        if along:
            parts.append((along, factor))
    return parts


def _meet_along(
    labels: Labels,
    first: Value,
    one: str,
    ours: Iterable[tuple[set[str], Tensor]],
    second: Value,
    two: str,
    theirs: Iterable[tuple[set[str], Tensor]],
    letters: Iterable[str],
    where: str,
) -> Value:
    """What both operands have along these letters goes together."""
    target = "".join(letters)
    operands = []
    for value, own, parts in ((first, one, ours), (second, two, theirs)):
        factors = tuple(_placed(factor, own, target) for kind, factor in parts if kind & set(target))
        shape = tuple(value.shape[own.index(letter)] for letter in target)
        operands.append(Value(shape, factors, value.pliable))
    shape = tuple(max(sizes) for sizes in zip(*(operand.shape for operand in operands), strict=True))
    return meet(labels, operands, shape, where) if target else Value(())


def _placed(factor: Tensor, letters: str, target: str) -> Tensor:
    """A factor over other letters: those that are missing have size 1."""
    for axis in reversed(range(len(letters))):
        if letters[axis] not in target:
            factor = factor.narrow(axis, 0, 1).squeeze(axis)
    kept = [letter for letter in letters if letter in target]
    factor = factor.permute([kept.index(letter) for letter in target if letter in kept])
    for axis, letter in enumerate(target):
        if letter not in kept:
            factor = factor.unsqueeze(axis)
    return factor


def letters_of(count: int, skip: int = 0) -> str:
    """So many different letters."""
    return "".join(chr(ord("A") + skip + place) for place in range(count))


def _linear(walk: Walk, node: Node) -> Result:
    value, weight = walk.value(node.args[0]), walk.value(node.args[1])
    free = letters_of(len(value.shape) - 1)
    if len(weight.shape) != 2:
        return _vector_product(walk, node)
    result = contract(walk.labels, value, weight, f"{free}k,ok->{free}o", walk.where(node))
    return _with_bias(walk, node, result, walk.value(walk.argument(node, 2, "bias")))


def _with_bias(walk: Walk, node: Node, result: Value, bias: Value) -> Value:
    if not bias.shape:
        return result
    return meet(walk.labels, [result, bias], result.shape, walk.where(node))


def _addmm(walk: Walk, node: Node) -> Result:
    first, second = walk.value(node.args[1]), walk.value(node.args[2])
    result = contract(walk.labels, first, second, "nk,ko->no", walk.where(node))
    return _with_bias(walk, node, result, walk.value(node.args[0]))


def _matmul(walk: Walk, node: Node) -> Result:
    first, second = walk.value(node.args[0]), walk.value(node.args[1])
    if min(len(first.shape), len(second.shape)) < 2:
        return _vector_product(walk, node)
    batch = letters_of(max(len(first.shape), len(second.shape)) - 2)
    first, second = _led(first, len(batch) + 2), _led(second, len(batch) + 2)
    return contract(walk.labels, first, second, f"{batch}ik,{batch}kj->{batch}ij", walk.where(node))


def _vector_product(walk: Walk, node: Node) -> Result:
    walk.labels.freeze_all(walk.operands(node), f"{walk.where(node)} multiplies by a vector")
    return Value(shape_of(node))


def _led(value: Value, dimensions: int) -> Value:
    shape = (1,) * (dimensions - len(value.shape)) + value.shape
    return Value(shape, tuple(aligned(factor, dimensions) for factor in value.factors), value.pliable)


def _einsum(walk: Walk, node: Node) -> Result:
    equation: Any = node.args[0]
    operands = walk.operands(node)
    equation = equation.replace(" ", "")
    plain = len(operands) == 2 and "->" in equation and "." not in equation
    if not plain or any(len(set(part)) < len(part) for part in equation.replace("->", ",").split(",")):
        walk.labels.freeze_all(operands, f"{walk.where(node)} ({equation}) is not understood")
        return Value(shape_of(node))
    return contract(walk.labels, operands[0], operands[1], equation, walk.where(node))


def _attention(walk: Walk, node: Node) -> Result:
    """softmax(q k^T) v: whole heads go; without heads the values' channels."""
    query, key, value = (walk.value(each) for each in node.args[:3])
    where = walk.where(node)
    if walk.argument(node, 7, "enable_gqa", False) and len(query.shape) > 2:
        times = query.shape[-3] // key.shape[-3]
        key, value = _repeated(key, times), _repeated(value, times)
    batch = letters_of(len(query.shape) - 2)
    scores = contract(walk.labels, query, key, f"{batch}ie,{batch}je->{batch}ij", where)
    if walk.argument(node, 6, "scale") is None:
        walk.labels.freeze_all(_without_batch((query, key)), f"{where} is scaled by the number of its channels")
    mask = walk.value(walk.argument(node, 3, "attn_mask"))
    if mask.shape:
        scores = meet(walk.labels, [scores, mask], scores.shape, where)
    return contract(walk.labels, scores, value, f"{batch}ij,{batch}jv->{batch}iv", where)


def _repeated(value: Value, times: int) -> Value:
    axis = len(value.shape) - 3
    shape = (*value.shape[:axis], value.shape[axis] * times, *value.shape[axis + 1 :])
    return Value(shape, tuple(f if f.shape[axis] == 1 else f.repeat_interleave(times, axis) for f in value.factors))


def _without_batch(values: Iterable[Value]) -> list[Value]:
    """The factors that vary along the last dimension and along no head."""
    return [
        Value(value.shape, tuple(f for f in value.factors if axes_of(f) == {len(value.shape) - 1})) for value in values
    ]


RULES: dict[str, Rule] = {
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
}
