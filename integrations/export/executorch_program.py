"""A written copy as a program of ExecuTorch, whose operators XNNPACK computes where it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from paredown.framework.errors import ExportError
from paredown.framework.model.forward import Forward
from paredown.integrations.export.calling import quiet, reason_of, require
from paredown.integrations.export.decomposed_graph import cut_weights, layer_of, rearrange_, unread_layers
from paredown.integrations.export.float_weights import float_layers, unpack_
from paredown.integrations.export.tracing import Traced, traced

__all__ = ["Lowered", "lower"]

PRODUCTS = ("aten.linear.default", "aten.addmm.default", "aten.convolution.default")
RECTIFIERS = ("aten.relu.default", "aten.hardtanh.default")
#: how XNNPACK's partitioner marks what it takes as part of an operator of integers
IMPLICIT = "IS_IMPLICIT_Q_DQ_TAG"
FLOATS = "inputs are not quantized"
UNREAD = "nothing quantizes their results, for which XNNPACK has no integer kernel"
CUT = "it multiplies parts of its weight by different inputs, which XNNPACK cannot; leave it out of the quantization"
#: how many layers a remark names
NAMED = 4


@dataclass(frozen=True)
class Lowered:
    """A program of ExecuTorch.

    Attributes:
        content: of the file.
        dynamic: whether the batch may be of any size, up to the largest.
        layers: by the name of a layer "integer" or "float": how it is computed.
        operators: how often each is in the program, those of XNNPACK with the type in which it computes them.
        remarks: what a user must know of it.
    """

    content: bytes
    dynamic: bool
    layers: Mapping[str, str]
    operators: Mapping[str, int]
    remarks: tuple[str, ...]


def lower(
    model: nn.Module,
    example_inputs: Any,
    forward: Forward | None,
    dynamic: Sequence[str],
    shapes: Any,
    largest: int,
) -> Lowered:
    """Lower a written copy of a model.

    XNNPACK takes a product for one of integers where its inputs and its weights are dequantized, whoever reads the
    result; where that is not quantized with a fixed grid, what it gives is wrong. So the weights of such layers become
    floats, as do those that meet inputs in floating point, which would be dequantized in every run.

    Args:
        shapes: ``dynamic_shapes`` of `torch.export.export`, in the place of ``dynamic``.
        largest: the largest batch, for which memory is planned.

    Raises:
        ExportError: it cannot be traced, or ExecuTorch cannot lower it.
    """
    floats, prefix = float_layers(model), "" if forward is None else "model."
    unpack_(model, floats)

    def trace() -> Traced:
        made = traced(model, example_inputs, forward, dynamic, shapes, largest)
        rearrange_(made.program)
        return made

    with _any_kernel():
        made = trace()
        unread = [name.removeprefix(prefix) for name in unread_layers(made.program)]
        if unread:
            unpack_(model, unread)
            made = trace()
        for name in cut_weights(made.program):
            raise ExportError(f"{name} cannot be exported: {CUT}")
        edge = _edge(made.program)
        nodes, content = list(_nodes(edge.exported_program())), _content(edge)
    layers = {name.removeprefix(prefix): "integer" if whole else "float" for name, _, whole in nodes if name}
    remarks = (*made.remarks, *_told(floats, FLOATS), *_told(unread, UNREAD))
    return Lowered(content, made.dynamic, layers, Counter(kind for _, kind, _ in nodes), remarks)


def _told(layers: Sequence[str], why: str) -> Iterator[str]:
    if layers:
        more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
        yield f"{', '.join(layers[:NAMED])}{more}: {why}; computed in floating point, weights stored as floats"


def _edge(program: Any) -> Any:
    """The program with the parts that XNNPACK computes taken out."""
    exir = require("executorch.exir", "executorch")
    xnnpack = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    checks = exir.EdgeCompileConfig(_check_ir_validity=False)  # which does not know quantized_decomposed
    with quiet("executorch"):
        try:
            return exir.to_edge_transform_and_lower(
                program, partitioner=[xnnpack.XnnpackPartitioner()], compile_config=checks
            )
        except Exception as error:  # ExecuTorch lets many kinds through
            raise ExportError(f"ExecuTorch cannot lower the model: {reason_of(error)}") from error


@contextmanager
def _any_kernel() -> Iterator[None]:
    """Without PyTorch's own choice of a convolution's kernel, which would bound the batch."""
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
        yield


def _content(edge: Any) -> bytes:
    with quiet("executorch"):
        try:
            content: bytes = edge.to_executorch().buffer
        except Exception as error:  # ExecuTorch lets many kinds through
            raise ExportError(f"ExecuTorch cannot write the model: {reason_of(error)}") from error
    return content


def _nodes(program: Any) -> Iterator[tuple[str, str, bool]]:
    """Of each operator the layer whose weight it multiplies by ("": none), its name, and whether it is of integers."""
    for node in _operators(program):
        yield _weight_layer(program, node), f"portable {_name(node)}", False
    for part in program.graph_module.children():
        inside = getattr(part, "original_module", None)
        for node in () if inside is None else _operators(inside):
            integer = _is_integer(node)
            yield _weight_layer(inside, node), f"XNNPACK {_name(node)} {'int8' if integer else 'fp32'}", integer


def _operators(program: Any) -> Iterator[Node]:
    for node in program.graph.nodes:
        if node.op == "call_function" and _name(node).partition(".")[0] in ("aten", "dim_order_ops"):
            yield node


def _name(node: Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _is_integer(node: Node) -> bool:
    """Whether XNNPACK computes a node in integers: it takes the dequantizations before it as part of it."""
    if _name(node) in RECTIFIERS and node.all_input_nodes[0].op == "call_function":
        before = node.all_input_nodes[0]
        return _name(before) in (*PRODUCTS, "aten.add.Tensor") and _is_integer(before)
    if _name(node) in PRODUCTS and not _is_dequantize(_weight(node)):
        return False
    inputs = [each for each in node.all_input_nodes if each.op == "call_function"]
    return bool(inputs) and all(_is_dequantize(each) and each.meta.get(IMPLICIT) for each in inputs)


def _is_dequantize(node: Node) -> bool:
    return "dequantize" in _name(node)


def _weight(product: Node) -> Node:
    weight: Any = product.args[2 if "addmm" in _name(product) else 1]
    found: Node = weight
    return found


def _weight_layer(program: Any, node: Node) -> str:
    """The layer whose weight a product multiplies by."""
    if _name(node) not in PRODUCTS:
        return ""
    weight = _weight(node)
    while weight.op == "call_function" and weight.all_input_nodes:
        weight = weight.all_input_nodes[0]
    return layer_of(program, weight)
