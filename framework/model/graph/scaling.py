"""Where a factor per channel can move from the layer that produces a value into the layers that read it.

Each value that depends on a producer's channels carries a tensor of its own shape that shows, element by element, of
which channel it is a multiple (-1: of none, such as a padding zero). Views, transpositions and the like are simply
executed on that tensor, so that a head layout needs no rules: a path counts if, at its end, channel i of the producer
is input i of the reader.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from paredown.framework.model.graph.trace import CONVOLUTIONS, TRANSPOSED, Graph, operator_name

__all__ = ["Scaling", "scalings"]

SAME = ("dropout", "alias", "detach", "to", "_to_copy", "clone", "contiguous", "neg")
PRODUCTS = ("mul", "div")
MOVES = (
    *("view", "reshape", "flatten", "unflatten", "transpose", "permute", "unsqueeze", "squeeze", "expand"),
    *("select", "slice", "t", "movedim", "pad", "constant_pad_nd"),
)
RECTIFIERS = ("relu", "leaky_relu")
POOLS = ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
ATTENTION = ("matmul", "bmm", "scaled_dot_product_attention")


@dataclass(frozen=True)
class Scaling:
    """A factor s per channel that can be moved without changing what the model computes.

    Attributes:
        before: parameters, each with a dimension, that are divided by s along it.
        after: modules, each with the dimension of its weight that is multiplied by s: 1, the inputs; for a
            transposed convolution, a depthwise one and transformers' Conv1D 0.
        channels: the number of elements of s.
    """

    before: tuple[tuple[str, int], ...]
    after: tuple[tuple[str, int], ...]
    channels: int


class _BlockedError(Exception):
    """Something sees the scaled value that cannot make up for it."""


@dataclass
class _Producer:
    node: Node
    before: tuple[tuple[str, int], ...]
    dimension: int
    channels: int = field(default=0)


def scalings(graph: Graph, layers: Collection[str], homogeneous: bool) -> list[Scaling]:
    """All places where a factor can be moved, in the order of the graph.

    Every reader of the producer's value has to be one of ``layers``, called once, with a weight that nobody shares;
    a value that is also added to a residual stream or returned is left alone.

    Args:
        graph: from `export_graph`.
        layers: names of modules whose weight may be multiplied along its inputs.
        homogeneous: False (SmoothQuant, arXiv:2211.10438, Eq. 3; AWQ, arXiv:2306.00978): between the layers lie
            only products with other values, casts, dropout, views and means; s is any nonzero number. True
            (cross-layer equalization, arXiv:1906.04721, Sec. 4.1): also rectifiers and pooling, and producers are
            convolutions, linear layers and batch-norms; s is positive.
    """
    found = []
    for producer in _producers(graph, homogeneous):
        try:
            after = _readers(graph, producer, layers, homogeneous)
        except _BlockedError:
            continue
        if after:
            found.append(Scaling(producer.before, after, producer.channels))
    return found


def _producers(graph: Graph, homogeneous: bool) -> Iterator[_Producer]:
    for node in graph.nodes:
        producer = _producer(graph, node, homogeneous)
        if producer is not None and all(name not in graph.shared for name, _ in producer.before):
            producer.channels = int(node.meta["val"].shape[producer.dimension])
            yield producer


def _producer(graph: Graph, node: Node, homogeneous: bool) -> _Producer | None:
    name = operator_name(node)
    if name == "linear":
        return _made(graph, node, node.args[1:3], (0, 0), -1)
    if name == "addmm":
        return None if node.kwargs else _made(graph, node, (node.args[2], node.args[0]), (1, 0), -1)
    if name in CONVOLUTIONS or name in TRANSPOSED:
        grouped = name in TRANSPOSED and _groups(node) > 1
        return None if grouped else _made(graph, node, node.args[1:3], (int(name in TRANSPOSED), 0), 1)
    if name == "batch_norm":
        return _made(graph, node, node.args[1:3], (0, 0), 1)
    if homogeneous:
        return None
    if name in ("layer_norm", "rms_norm"):
        operands = node.args[2:4] if name == "layer_norm" else node.args[2:3]
        return _made(graph, node, operands, (0, 0), -1) if len(node.args[1]) == 1 else None  # type: ignore[arg-type]
    if name in ("group_norm", "instance_norm"):
        first = 2 if name == "group_norm" else 1
        return _made(graph, node, node.args[first : first + 2], (0, 0), 1)
    return _gain(graph, node) if name == "mul" else None


def _made(graph: Graph, node: Node, operands: Any, dimensions: tuple[int, int], dimension: int) -> _Producer | None:
    """A producer of weight and bias, if the weight is there and both are parameters as they are."""
    given = [operand for operand in operands if operand is not None]
    names = [graph.own_parameter(operand) for operand in given]
    if not operands or operands[0] is None or not all(names):
        return None
    before = tuple((str(name), dimensions[place]) for place, name in enumerate(names))
    return _Producer(node, before, dimension % node.meta["val"].dim())


def _gain(graph: Graph, node: Node) -> _Producer | None:
    """A norm written by hand: a vector of parameters, one for each channel of the last dimension."""
    for place in (0, 1):
        vector, other = node.args[place], node.args[1 - place]
        name = graph.own_parameter(vector)
        shape = node.meta["val"].shape
        if name and isinstance(other, Node) and vector.meta["val"].shape == shape[-1:]:  # type: ignore[union-attr]
            return _Producer(node, ((name, 0),), len(shape) - 1)
    return None


def _readers(
    graph: Graph, producer: _Producer, layers: Collection[str], homogeneous: bool
) -> tuple[tuple[str, int], ...]:
    channels = {producer.node: _own_channels(producer)}
    waiting = set(graph.users_of(producer.node))
    after: list[tuple[str, int]] = []
    while waiting:
        node = min(waiting, key=graph.positions.__getitem__)
        waiting.remove(node)
        scaled = [
            value for value in tree_leaves((node.args, node.kwargs)) if isinstance(value, Node) and value in channels
        ]
        if len(scaled) > 1:
            raise _BlockedError
        reader = _reader(graph, node, scaled[0], channels[scaled[0]], layers)
        if reader is not None:
            after.append(reader)
            continue
        channels[node] = _carried(node, scaled[0], channels[scaled[0]], homogeneous)
        waiting |= set(graph.users_of(node))
    return tuple(after)


def _own_channels(producer: _Producer) -> Tensor:
    shape = producer.node.meta["val"].shape
    view = [1] * len(shape)
    view[producer.dimension] = -1
    return torch.arange(producer.channels).view(view).expand(tuple(int(size) for size in shape))


def _reader(
    graph: Graph, node: Node, scaled: Node, channels: Tensor, layers: Collection[str]
) -> tuple[str, int] | None:
    """The layer that the node is, with the dimension of its weight that makes up for the factor."""
    name = operator_name(node)
    if name not in ("linear", "addmm") and name not in CONVOLUTIONS and name not in TRANSPOSED:
        return None
    inputs, factor = node.args[1:3] if name == "addmm" else node.args[:2]
    weight = graph.own_parameter(factor)
    layer, _, own = (weight or "").rpartition(".")
    if (
        inputs is not scaled
        or node.kwargs.keys() & {"alpha", "beta"}
        or own != "weight"
        or weight in graph.shared
        or layer not in layers
    ):
        raise _BlockedError
    _require_order(channels, -1 if name in ("linear", "addmm") else 1)
    return layer, _input_dimension(node, name)


def _input_dimension(node: Node, name: str) -> int:
    groups = 1 if name in ("linear", "addmm") else _groups(node)
    if name in TRANSPOSED or name == "addmm":
        return 0
    if groups == 1:
        return 1
    inputs, outputs = (int(value.meta["val"].shape[1]) for value in (node.args[0], node))  # type: ignore[union-attr]
    if groups != inputs or groups != outputs:
        raise _BlockedError
    return 0


def _require_order(channels: Tensor, dimension: int) -> None:
    """Channel i of the producer, or nothing, has to be input i."""
    channels = channels.movedim(dimension, -1)
    if not ((channels == torch.arange(channels.shape[-1])) | (channels < 0)).all():
        raise _BlockedError


def _groups(node: Node) -> int:
    given: Any = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    return int(given)


def _carried(node: Node, scaled: Node, channels: Tensor, homogeneous: bool) -> Tensor:
    """The channels of the node's value, from those of the one operand that is scaled."""
    name = operator_name(node)
    rule = _rule(name, homogeneous)
    if rule is None:
        raise _BlockedError
    try:
        carried = rule(node, scaled, channels)
        return carried.expand(tuple(int(size) for size in node.meta["val"].shape))
    except (RuntimeError, IndexError, TypeError):  # the shapes of the example do not allow it
        raise _BlockedError from None


def _rule(name: str, homogeneous: bool) -> Callable[[Node, Node, Tensor], Tensor] | None:
    if name in SAME:
        return lambda node, scaled, channels: channels
    if name in PRODUCTS:
        return _product
    if name in MOVES:
        return _moved
    if name in ATTENTION:
        return _attended
    if name == "mean":
        return _averaged
    if name.startswith(POOLS) and (homogeneous or "avg" in name):
        return _pooled
    if homogeneous and name in RECTIFIERS:
        return lambda node, scaled, channels: channels
    return None


def _product(node: Node, scaled: Node, channels: Tensor) -> Tensor:
    if operator_name(node) == "div" and (node.args[0] is not scaled or node.kwargs):
        raise _BlockedError
    return channels


def _moved(node: Node, scaled: Node, channels: Tensor) -> Tensor:
    """Execute the operator on the channels; what it adds as padding belongs to none."""
    if node.args[0] is not scaled:
        raise _BlockedError
    if operator_name(node) in ("pad", "constant_pad_nd"):
        return _padded(node, channels)
    target: Any = node.target
    result: Tensor = target(channels, *node.args[1:], **node.kwargs)
    return result


def _padded(node: Node, channels: Tensor) -> Tensor:
    others = [*node.args[2:], *node.kwargs.values()]
    if any(other not in ("constant", None, 0) for other in others):
        raise _BlockedError
    widths: Any = node.args[1]
    return nn.functional.pad(channels, widths, value=-1)


def _attended(node: Node, scaled: Node, channels: Tensor) -> Tensor:
    """A weighted sum of values along the last dimension but one: each element keeps its channel."""
    values = node.args[2 if operator_name(node) == "scaled_dot_product_attention" else 1]
    if values is not scaled or channels.dim() < 2:
        raise _BlockedError
    return _common(channels, (-2,))


def _averaged(node: Node, scaled: Node, channels: Tensor) -> Tensor:
    dimensions: Any = node.args[1] if len(node.args) > 1 else None
    if dimensions is None:
        raise _BlockedError
    keeps = bool(node.args[2]) if len(node.args) > 2 else bool(node.kwargs.get("keepdim", False))
    common = _common(channels, tuple(dimensions))
    return common if keeps else common.squeeze(tuple(dimensions))


def _pooled(node: Node, scaled: Node, channels: Tensor) -> Tensor:
    spatial = int(operator_name(node).removesuffix("_with_indices").removesuffix("d")[-1])
    return _common(channels, tuple(range(-spatial, 0)))


def _common(channels: Tensor, dimensions: tuple[int, ...]) -> Tensor:
    """The one channel of all elements along the dimensions, which stay with size 1."""
    common = channels.amax(dimensions, keepdim=True)
    if not ((channels == common) | (channels < 0)).all():
        raise _BlockedError
    return common
