"""Autocast regions of an exported graph, laid open: `torch.export` makes each one node that hides what it computes."""

from __future__ import annotations

import operator
from typing import Any

from torch.fx import Graph, GraphModule, Node

__all__ = ["lay_open_"]

REGION = "wrap_with_autocast"


def lay_open_(module: GraphModule) -> None:
    """Put the nodes of each autocast region in its place, in the graph of the module; the casts are left out."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and getattr(node.target, "__name__", "") == REGION:
            _lay_open_one(module, node)


def _lay_open_one(module: GraphModule, region: Node) -> None:
    *_, inside = region.args[:5]  # device type, dtype, enabled, whether casts are cached, the region's module
    assert isinstance(inside, Node)
    own: Any = module.get_submodule(str(inside.target))
    lay_open_(own)
    results = _copied(module.graph, own.graph, region)
    for user in list(region.users):
        if user.op == "call_function" and user.target is operator.getitem:
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
    module.graph.erase_node(region)
    if not inside.users:
        module.graph.erase_node(inside)


def _copied(graph: Graph, inner: Graph, region: Node) -> Any:
    """The nodes that give a region's results, after its nodes were copied to before it."""
    given = iter(region.args[5:])
    copies: dict[Node, Any] = {}
    with graph.inserting_before(region):
        for node in inner.nodes:
            if node.op == "output":
                return [copies[one] if isinstance(one, Node) else one for one in node.args[0]]
            copies[node] = next(given) if node.op == "placeholder" else graph.node_copy(node, copies.__getitem__)
    raise AssertionError("a graph ends with its output")
