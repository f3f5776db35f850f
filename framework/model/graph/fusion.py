"""A model's computation as a graph, and which of its layers an engine fuses."""

from __future__ import annotations

from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from paredown.framework.model.graph.scaling import Scaling, scalings
from paredown.framework.model.graph.trace import (
    CONVOLUTIONS,
    TRANSPOSED,
    Graph,
    export_graph,
    operator_name,
    tensors_of,
)

__all__ = [
    "Graph",
    "Scaling",
    "batch_norm_of",
    "batch_norms_after",
    "export_graph",
    "is_convolution",
    "only_reader",
    "owner_of",
    "scalings",
    "tensors_of",
]


def batch_norms_after(graph: Graph) -> dict[str, str]:
    """For each convolution or linear layer whose result one batch-norm alone reads: the batch-norm's name.

    Both are called once, with parameters that nobody shares, and the batch-norm keeps running statistics. A module that
    does more than normalise (with its activation inside) is none.
    """
    found = {}
    for node in filter(_can_be_folded_into, graph.nodes):
        layer = owner_of(graph, node)
        norm = only_reader(graph, node)
        name = None if norm is None else batch_norm_of(graph, norm)
        if layer is not None and name is not None:
            found[layer] = name
    return found


def is_convolution(node: Node) -> bool:
    """Whether a node is a convolution, transposed or not."""
    return operator_name(node) in CONVOLUTIONS + TRANSPOSED


def _can_be_folded_into(node: Node) -> bool:
    """Convolutions, and linear layers of vectors: the dimension that they give is the one that is normalised."""
    return is_convolution(node) or (operator_name(node) == "linear" and node.meta["val"].dim() == 2)


def owner_of(graph: Graph, node: Node) -> str | None:
    """The module whose own weight, shared with nobody, the node multiplies by, if the node is its whole result."""
    weight = graph.own_parameter(node.args[1])
    name = (weight or "").rpartition(".")[0]
    alone = weight is not None and weight not in graph.shared and graph.module_of(node) == name
    leaves = all(name not in graph.stack_of(user) for user in graph.users_of(node))
    return name if alone and leaves and graph.calls_of(name) == 1 else None


def only_reader(graph: Graph, node: Node) -> Node | None:
    """The node that alone reads a value, if there is one."""
    users = graph.users_of(node)
    return users[0] if len(users) == 1 else None


def batch_norm_of(graph: Graph, node: Node) -> str | None:
    """The batch-norm with running statistics, called once, whose result a node is, by name; None: it is of none."""
    name = graph.module_of(node) or ""
    module = graph.modules.get(name)
    if operator_name(node) != "batch_norm" or not isinstance(module, _BatchNorm) or module.running_mean is None:
        return None
    own = {graph.own_parameter(argument) for argument in node.args[1:5] if isinstance(argument, Node)}
    alone = not own & graph.shared and all(str(each).rpartition(".")[0] == name for each in own)
    around = [each for each in (node.args[0], *graph.users_of(node)) if isinstance(each, Node)]
    whole = all(name not in graph.stack_of(each) for each in around)
    return name if alone and whole and graph.calls_of(name) == 1 else None
