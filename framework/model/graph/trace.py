"""A model's exported graph, with the names of the modules and parameters behind its nodes."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.traceback import preserve_node_meta
from torch.utils._pytree import tree_leaves

from paredown.framework.errors import TargetError
from paredown.framework.model.forward import Forward, call
from paredown.framework.model.graph.autocast import lay_open_
from paredown.framework.model.links import without_links
from paredown.framework.model.operators import CALL, NumberedCalls
from paredown.framework.model.targets import plain_name, unwrap
from paredown.framework.model.temporary import buffers_kept, evaluating

__all__ = ["CONVOLUTIONS", "TRANSPOSED", "Graph", "export_graph", "operator_name", "tensors_of"]

#: names of operators
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
#: nodes that check and pass nothing on
CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size")


@dataclass(frozen=True)
class Graph:
    """What a forward of a model computes: aten operators in the order of the calls, not decomposed.

    Attributes:
        nodes: torch.fx nodes; ``node.meta["val"]`` tells shape and dtype for the example inputs.
        modules: the model's own modules by plain name.
        parameters: the name of the parameter or buffer that a placeholder node stands for.
        shared: the names of parameters that have several names, or are used at several places.
        constants: the tensors that the model's code made, by the placeholder nodes that stand for them.
    """

    nodes: tuple[Node, ...]
    modules: Mapping[str, nn.Module]
    parameters: Mapping[Node, str]
    shared: frozenset[str]
    constants: Mapping[Node, Tensor] = field(default_factory=dict)

    @functools.cached_property
    def positions(self) -> Mapping[Node, int]:
        """Each node's place in the order of the calls."""
        return {node: place for place, node in enumerate(self.nodes)}

    def stack_of(self, node: Node) -> tuple[str, ...]:
        """The names of the modules in whose forward the node is, outermost first."""
        stack = node.meta.get("nn_module_stack") or {}
        names = (_inside(re.sub(r"@\d+", "", path)) for path, _ in stack.values())
        return tuple(name for name in names if name is not None)

    def module_of(self, node: Node) -> str | None:
        """The name of the innermost module in whose forward the node is."""
        stack = self.stack_of(node)
        return stack[-1] if stack else None

    @functools.cached_property
    def _by_module(self) -> Mapping[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(self.stack_of(node)):
                found.setdefault(name, []).append(node)
        return found

    def nodes_of(self, name: str) -> Sequence[Node]:
        """The nodes in the forward of a module, those of its children included, in the order of the calls."""
        return self._by_module.get(name, ())

    def calls_of(self, name: str) -> int:
        """How often a module is called."""
        return len({self._call_key(node, name) for node in self.nodes_of(name)})

    def own_parameter(self, node: Any) -> str | None:
        """The name of the parameter or buffer that an argument is, seen through casts; None for other values."""
        while isinstance(node, Node) and operator_name(node) in ("to", "alias", "detach", "_to_copy"):
            node = node.args[0]
        return self.parameters.get(node) if isinstance(node, Node) else None

    def users_of(self, node: Node) -> tuple[Node, ...]:
        """The nodes that read a value, without mere checks."""
        return tuple(user for user in node.users if operator_name(user) not in CHECKS)

    def number_of(self, node: Node, name: str) -> int | None:
        """The number of the call, among those that `paredown.framework.model.operators` counts in the module ``name``,
        whose result a node is; None where it is not counted, or the module is called more than once."""
        number = _call_number(node)
        if number is None or self.calls_of(name) != 1:
            return None
        numbers = (_call_number(each) for each in self.nodes_of(name))
        return number - min(each for each in numbers if each is not None)

    @staticmethod
    def _call_key(node: Node, name: str) -> str:
        stack = node.meta["nn_module_stack"]
        return next(str(key) for key, (path, _) in stack.items() if _inside(re.sub(r"@\d+", "", path)) == name)


class _Called(nn.Module):
    def __init__(self, model: nn.Module, forward: Forward | None) -> None:
        super().__init__()
        self.model = model
        self._call = forward

    def forward(self, inputs: Any) -> tuple[Tensor, ...]:
        return tensors_of(call(self.model, inputs, self._call))


def export_graph(
    model: nn.Module, example_inputs: Any, forward: Forward | None = None, training: bool = False
) -> Graph:
    """Trace a forward with `torch.export` (not strict, without decompositions), past the managed links.

    Autocast regions are seen through: the graph has what they compute, without their casts.

    The model is as it was afterwards: modes, links and parameters.

    Args:
        model: any module; wrappers (DDP, torch.compile) are seen through.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of named ones.
        forward: called as ``forward(model, example_inputs)`` where the above does not fit.
        training: trace it in training mode, not in eval mode.

    Raises:
        TargetError: the model cannot be traced; the message has where `torch.export` stopped.
    """
    model = unwrap(model)
    with without_links(model), evaluating(model), buffers_kept(model), _without_log("torch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns of the flat weights of an LSTM
        if training:
            model.train()
        try:
            with NumberedCalls(), preserve_node_meta():
                program = torch.export.export(_Called(model, forward), (example_inputs,), strict=False)
        except Exception as error:  # torch.export lets the error of any operator through
            reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
            raise TargetError(f"the model's graph cannot be traced by torch.export: {reason}") from error
    lay_open_(program.graph_module)
    return _graph_of(program, model)


@contextmanager
def _without_log(name: str) -> Iterator[None]:
    """torch logs the error of an operator that it then raises too."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def tensors_of(output: Any) -> tuple[Tensor, ...]:
    """The tensors in a model's output, in its order; what is not a plain container (a cache) is passed over."""
    if isinstance(output, Mapping):
        output = list(output.values())
    elif _is_dataclass(output):
        output = [getattr(output, each.name) for each in dataclasses.fields(output)]
    leaves = tree_leaves(output, is_leaf=_is_dataclass)
    return tuple(
        t for leaf in leaves for t in (tensors_of(leaf) if _is_dataclass(leaf) else (leaf,)) if isinstance(t, Tensor)
    )


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, (type, Mapping))


def operator_name(node: Any) -> str:
    """``"conv2d"`` for ``aten.conv2d.default``; the kind of node (``"placeholder"``, ``"output"``) for others.

    An in-place operator has the name of the one that is not.
    """
    if not isinstance(node, Node):
        return ""
    if node.op != "call_function":
        return node.op
    packet = getattr(node.target, "overloadpacket", None)
    name = str(getattr(packet, "__name__", getattr(node.target, "__name__", node.target)))
    return name if name.startswith("__") else re.sub(r"(?<=[a-z0-9])_$", "", name)


def _call_number(node: Node) -> int | None:
    number: int | None = (node.meta.get("custom") or {}).get(CALL)
    return number


def _graph_of(program: Any, model: nn.Module) -> Graph:
    signature = program.graph_signature
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    nodes = tuple(program.graph.nodes)
    parameters = {node: _inside(targets[node.name]) or "" for node in nodes if node.name in targets}
    modules = {plain_name(name): module for name, module in model.named_modules(remove_duplicate=False)}
    lifted = signature.inputs_to_lifted_tensor_constants
    constants = {node: program.constants[lifted[node.name]] for node in nodes if node.name in lifted}
    return Graph(nodes, modules, parameters, frozenset(_shared(model, parameters)), constants)


def _shared(model: nn.Module, parameters: Mapping[Node, str]) -> set[str]:
    named = [(plain_name(name), id(tensor)) for name, tensor in model.named_parameters(remove_duplicate=False)]
    times = Counter(identity for _, identity in named)
    tied = {name for name, identity in named if times[identity] > 1}
    reused = {
        name for node, name in parameters.items() if sum(operator_name(user) not in CHECKS for user in node.users) > 1
    }
    return tied | reused


def _inside(path: str) -> str | None:
    """The name inside of the model, of one inside of the wrapper; None for the wrapper itself."""
    if path != "model" and not path.startswith("model."):
        return None
    return plain_name(path.removeprefix("model").removeprefix("."))
