"""A model's computation as a graph, and which of its layers an engine fuses."""

from __future__ import annotations

from collections.abc import Collection, Iterator

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

__all__ = ["Graph", "Scaling", "batch_norms_after", "export_graph", "open_ends", "scalings", "tensors_of"]

RECTIFIERS = ("relu", "relu6", "hardtanh", "clamp", "clamp_min")
#: operators that choose or rearrange elements, and so keep a quantized value on its grid
KEEPERS = (
    *("view", "reshape", "flatten", "unflatten", "transpose", "permute", "unsqueeze", "squeeze", "contiguous"),
    *("dropout", "alias", "detach", "to", "clone", "max_pool1d", "max_pool2d", "max_pool3d"),
)


def batch_norms_after(graph: Graph) -> dict[str, str]:
    """For each convolution or linear layer whose result one batch-norm alone reads: the batch-norm's name.

    Both are called once, with parameters that nobody shares, and the batch-norm keeps running statistics. A module that
    does more than normalise (with its activation inside) is none.
    """
    found = {}
    for node in [*_convolutions(graph), *_linear_layers(graph)]:
        layer = _owner(graph, node)
        norm = _only_user(graph, node)
        name = None if norm is None else _batch_norm(graph, norm)
        if layer is not None and name is not None:
            found[layer] = name
    return found


def open_ends(graph: Graph, quantized: Collection[str]) -> dict[str, str]:
    """For each quantized convolution whose result does not only go into quantized modules: where to quantize it.

    An integer engine computes a convolution in integers if what comes out is quantized as well. Where its readers
    quantize their inputs, it is; before an addition, a concatenation, an average pooling it is not.

    Args:
        graph: from `export_graph`.
        quantized: names of the modules that quantize their input.

    Returns:
        By the convolution's name the last module of convolution, batch-norm and rectifier: its output is what to
        quantize. Left out are convolutions whose result is returned by the model.
    """
    found = {}
    for node in _convolutions(graph):
        convolution = _owner(graph, node)
        if convolution is None or convolution not in quantized:
            continue
        last, module = _chain(graph, node, convolution)
        ends = list(_ends(graph, last, quantized))
        if ends and all(operator_name(end) != "output" for end in ends):
            found[convolution] = module
    return found


def _convolutions(graph: Graph) -> Iterator[Node]:
    return (node for node in graph.nodes if operator_name(node) in CONVOLUTIONS + TRANSPOSED)


def _linear_layers(graph: Graph) -> Iterator[Node]:
    """Those of vectors: the dimension that they give is the one that a batch-norm normalises."""
    return (node for node in graph.nodes if operator_name(node) == "linear" and node.meta["val"].dim() == 2)


def _owner(graph: Graph, node: Node) -> str | None:
    """The module whose own weight, shared with nobody, the node multiplies by, if the node is its whole result."""
    weight = graph.own_parameter(node.args[1])
    name = (weight or "").rpartition(".")[0]
    alone = weight is not None and weight not in graph.shared and graph.module_of(node) == name
    leaves = all(name not in graph.stack_of(user) for user in graph.users_of(node))
    return name if alone and leaves and graph.calls_of(name) == 1 else None


def _only_user(graph: Graph, node: Node) -> Node | None:
    users = graph.users_of(node)
    return users[0] if len(users) == 1 else None


def _batch_norm(graph: Graph, node: Node) -> str | None:
    name = graph.module_of(node) or ""
    module = graph.modules.get(name)
    if operator_name(node) != "batch_norm" or not isinstance(module, _BatchNorm) or module.running_mean is None:
        return None
    own = {graph.own_parameter(argument) for argument in node.args[1:5] if isinstance(argument, Node)}
    alone = not own & graph.shared and all(str(each).rpartition(".")[0] == name for each in own)
    around = [each for each in (node.args[0], *graph.users_of(node)) if isinstance(each, Node)]
    whole = all(name not in graph.stack_of(each) for each in around)
    return name if alone and whole and graph.calls_of(name) == 1 else None


def _chain(graph: Graph, node: Node, convolution: str) -> tuple[Node, str]:
    """The last node that an engine fuses with the convolution and has a module of its own, and that module."""
    module = convolution
    following = _only_user(graph, node)
    if following is not None and (name := _batch_norm(graph, following)) is not None:
        node, module = following, name
        following = _only_user(graph, node)
    if following is not None and operator_name(following) in RECTIFIERS:
        name = graph.module_of(following)
        if name and not list(graph.modules[name].children()) and graph.calls_of(name) == 1:
            return following, name
    return node, module


def _ends(graph: Graph, node: Node, quantized: Collection[str]) -> Iterator[Node]:
    """The readers of a value, behind views and rectifiers, that are not inside of a quantized module."""
    for user in graph.users_of(node):
        if any(name in quantized for name in graph.stack_of(user)):
            continue
        if operator_name(user) in KEEPERS + RECTIFIERS:
            yield from _ends(graph, user, quantized)
        else:
            yield user
