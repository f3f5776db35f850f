"""Which results of a model an integer engine needs in 8 bits although no quantized layer reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch.fx import Node

from paredown.framework.model.graph.fusion import batch_norm_of, is_convolution, only_reader, owner_of
from paredown.framework.model.graph.trace import Graph, operator_name

__all__ = ["Result", "open_results"]

RECTIFIERS = ("relu", "relu6", "hardtanh", "clamp", "clamp_min")
#: operators that choose or rearrange elements, and so keep a quantized value on its grid
KEEPERS = (
    *("view", "reshape", "flatten", "unflatten", "transpose", "permute", "unsqueeze", "squeeze", "contiguous"),
    *("dropout", "alias", "detach", "to", "clone", "max_pool1d", "max_pool2d", "max_pool3d"),
)
KINDS = {"linear": "linear", "add": "sum", "cat": "concatenation"}
ALL = ("convolution", "sum", "concatenation")


@dataclass(frozen=True)
class Result:
    """A result by where it is made: what the module returns, or, with a number, what that call inside of it gives (see
    `paredown.framework.model.operators`)."""

    module: str
    call: int | None = None


def open_results(graph: Graph, quantized: Collection[str], rounded: Collection[str] = ALL) -> list[Result]:
    """The results to quantize so that convolutions, residual sums and concatenations are computed in integers.

    An integer engine computes an operator in integers if what goes in and what comes out is quantized. Where the
    readers of a result quantize their inputs, it is; before an addition, a concatenation, an average it is not. A sum
    or a concatenation takes part if all that goes into it comes from such results. A rectifier behind is fused, so
    that what is quantized is what it gives.

    Args:
        graph: from `paredown.framework.model.graph.fusion.export_graph`.
        quantized: names of the modules that quantize their input.
        rounded: what the engine rounds: "convolution", "linear" (their results), "sum", "concatenation", "returned"
            (also where the model returns it).

    Returns:
        Them in the order of the calls.
    """
    on_grid: set[Node] = set()
    found: dict[Result, None] = {}
    for node in graph.nodes:
        if _kind(node) not in rounded or not _can_be_integer(graph, node, quantized, on_grid):
            continue
        last = _last_fused(graph, node)
        readers = list(_open_readers(graph, last, quantized))
        if "returned" not in rounded and any(operator_name(reader) == "output" for reader in readers):
            continue
        place = _place_of(graph, last) if readers else None
        if readers and place is None:
            continue
        on_grid.add(last)
        found.update({} if place is None else {place: None})
    return list(found)


def _can_be_integer(graph: Graph, node: Node, quantized: Collection[str], on_grid: Collection[Node]) -> bool:
    kind = _kind(node)
    if kind in ("convolution", "linear"):
        return owner_of(graph, node) in quantized
    parts = node.args[0] if kind == "concatenation" else node.args
    known = isinstance(parts, (list, tuple)) and all(_source(each, on_grid) for each in parts)
    return known and (kind == "concatenation" or (len(node.args) == 2 and _one_shape(node)))


def _kind(node: Node) -> str:
    name = operator_name(node)
    return "convolution" if is_convolution(node) else KINDS.get(name, "")


def _one_shape(node: Node) -> bool:
    shapes = {tuple(each.meta["val"].shape) for each in node.args if isinstance(each, Node)}
    return len(shapes) == 1


def _source(value: object, on_grid: Collection[Node]) -> Node | None:
    """The node on the grid whose elements a value has; None where it has others."""
    while isinstance(value, Node) and value not in on_grid and operator_name(value) in KEEPERS + RECTIFIERS:
        value = value.args[0]
    return value if isinstance(value, Node) and value in on_grid else None


def _last_fused(graph: Graph, node: Node) -> Node:
    """The last node that an engine fuses with this one: behind a batch-norm and a rectifier."""
    following = only_reader(graph, node)
    if is_convolution(node) and following is not None and batch_norm_of(graph, following) is not None:
        node, following = following, only_reader(graph, following)
    return following if following is not None and operator_name(following) in RECTIFIERS else node


def _place_of(graph: Graph, node: Node) -> Result | None:
    """Where a link can act on a node's value: the innermost module that returns it and is called once, else the call
    itself."""
    for name in reversed(graph.stack_of(node)):
        inside = graph.nodes_of(name)
        leaves = inside[-1] is node and all(name not in graph.stack_of(user) for user in graph.users_of(node))
        if leaves and graph.calls_of(name) == 1:
            return Result(name)
    around = graph.module_of(node)
    number = None if around is None else graph.number_of(node, around)
    return None if around is None or number is None else Result(around, number)


def _open_readers(graph: Graph, node: Node, quantized: Collection[str]) -> Iterator[Node]:
    """The readers of a value, behind views and rectifiers, that are not inside of a quantized module."""
    for user in graph.users_of(node):
        if any(name in quantized for name in graph.stack_of(user)):
            continue
        if operator_name(user) in KEEPERS + RECTIFIERS:
            yield from _open_readers(graph, user, quantized)
        else:
            yield user
