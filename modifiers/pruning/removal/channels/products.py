"""The multiply-accumulates of a model's graph, as functions of the sizes that channels have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from paredown.framework.measure.products import REPEATING
from paredown.framework.model.graph.trace import CONVOLUTIONS, TRANSPOSED, operator_name
from paredown.modifiers.pruning.removal.channels.analysis import Analysis
from paredown.modifiers.pruning.removal.channels.labels import Value, slices_gone

__all__ = ["Product", "multiply_accumulates", "products_of", "shape_after"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """An operator that multiplies and sums: its operands, and its multiply-accumulates from their shapes."""

    operands: tuple[Value, ...]
    count: Callable[[Sequence[Shape]], int]


def products_of(analysis: Analysis) -> tuple[Product, ...]:
    """The products with weights in an eval forward, as `paredown.framework.measure.products` counts them."""
    found, weights = [], _weights(analysis)
    for node in analysis.graph.nodes:
        kind = KINDS.get(operator_name(node))
        if kind is not None and any(each in weights for each in _operands(node)):
            operands = [analysis.values[each] for each in _operands(node)]
            count = kind(node)
            if count is not None and all(isinstance(operand, Value) for operand in operands):
                found.append(Product(tuple(operands), count))
    return tuple(found)


def _weights(analysis: Analysis) -> set[Node]:
    """The nodes that are parameters or buffers, or made of such and of no input."""
    found: set[Node] = set()
    for node in analysis.graph.nodes:
        if node.op == "placeholder":
            if node in analysis.graph.parameters or node in analysis.graph.constants:
                found.add(node)
        elif operator_name(node) not in REPEATING and all(each in found for each in node.all_input_nodes):
            found.add(node)
    return found


def multiply_accumulates(products: Iterable[Product], removed: Tensor) -> int:
    """What these take when some labels go.

    Args:
        products: from `products_of`.
        removed: by label, whether it goes; of shape (labels,).
    """
    return sum(each.count([shape_after(operand, removed) for operand in each.operands]) for each in products)


def shape_after(value: Value, removed: Tensor) -> Shape:
    """The shape of a value when some labels go."""
    shape = list(value.shape)
    for axis, size in enumerate(value.shape):
        gone = [slices_gone(factor, axis, removed) for factor in value.factors if factor.shape[axis] > 1]
        if gone:
            shape[axis] = size - int(torch.stack(gone).any(0).sum())
    return tuple(shape)


def _operands(node: Node) -> list[Node]:
    """The tensors among a node's arguments, in order; those in lists too."""
    flat: list[Any] = []
    for argument in node.args:
        flat += argument if isinstance(argument, (list, tuple)) else [argument]
    return [each for each in flat if isinstance(each, Node)]


def _linear(shapes: Sequence[Shape]) -> int:
    return math.prod(shapes[0][:-1]) * math.prod(shapes[1])


def _convolution(node: Node) -> Callable[[Sequence[Shape]], int]:
    """Each weight is used once at each position of the output, of a transposed convolution at each of the input."""
    name = operator_name(node)
    dimensions = int(name[-2])
    image: Any = node.args[0] if name in TRANSPOSED else node
    positions = math.prod(image.meta["val"].shape[-dimensions:])
    return lambda shapes: math.prod(shapes[0][: -dimensions - 1]) * positions * math.prod(shapes[1])


def _added(shapes: Sequence[Shape]) -> int:
    return _product(shapes[1:3])


def _product(shapes: Sequence[Shape]) -> int:
    first, second = shapes
    if min(len(first), len(second)) < 2:
        return 0  # a product with a vector is not counted
    batch: Shape = torch.broadcast_shapes(first[:-2], second[:-2])  # type: ignore[no-untyped-call]
    return math.prod(batch) * first[-2] * first[-1] * second[-1]


def _einsum(node: Node) -> Callable[[Sequence[Shape]], int] | None:
    """Two operands that have a dimension in common which the result has not; others are not products of matrices."""
    equation: Any = node.args[0]
    operands, arrow, out = equation.replace(" ", "").partition("->")
    letters = operands.split(",")
    if len(letters) != 2 or not arrow or "." in equation or not (set(letters[0]) & set(letters[1])) - set(out):
        return None

    def count(shapes: Sequence[Shape]) -> int:
        sizes: dict[str, int] = {}
        for names, shape in zip(letters, shapes, strict=True):
            for letter, size in zip(names, shape, strict=True):
                sizes[letter] = max(size, sizes.get(letter, 1))
        alone = [_alone(letters, place, out) for place in (0, 1)]
        return math.prod(size for letter, size in sizes.items() if letter not in alone[0] | alone[1])

    return count


def _alone(letters: Sequence[str], place: int, out: str) -> set[str]:
    """Dimensions of one operand only that are summed before the product."""
    return set(letters[place]) - set(letters[1 - place]) - set(out)


def _attention(shapes: Sequence[Shape]) -> int:
    query, key, value = shapes[:3]
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(shapes: Sequence[Shape], count: int, first: int) -> int:
    weights = [shape for shape in shapes[first : first + count] if len(shape) == 2]
    return math.prod(shapes[0][:-1]) * sum(math.prod(shape) for shape in weights)


def _layers(node: Node) -> Callable[[Sequence[Shape]], int]:
    count: Any = len(node.args[2])  # type: ignore[arg-type]
    return lambda shapes: _recurrent(shapes, count, _behind_states(node))


def _cell(node: Node) -> Callable[[Sequence[Shape]], int]:
    return lambda shapes: _recurrent(shapes, 2, _behind_states(node))


def _behind_states(node: Node) -> int:
    """The number of operands before the weights: the input and the states."""
    states = node.args[1]
    return 1 + (len(states) if isinstance(states, (list, tuple)) else 1)


def _always(count: Callable[[Sequence[Shape]], int]) -> Callable[[Node], Callable[[Sequence[Shape]], int]]:
    return lambda node: count


KINDS: Mapping[str, Callable[[Node], Callable[[Sequence[Shape]], int] | None]] = {
    "linear": _always(_linear),
    **dict.fromkeys(("addmm", "baddbmm"), _always(_added)),
    **dict.fromkeys(("mm", "bmm", "matmul", "__matmul__"), _always(_product)),
    "einsum": _einsum,
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED), _convolution),
    "scaled_dot_product_attention": _always(_attention),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _layers),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
}
