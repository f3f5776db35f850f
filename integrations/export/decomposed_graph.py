"""Programs of quantized_decomposed operators, brought into the order in which compilers look for them.

They compute an operator in integers where its inputs come straight from a dequantization, and its one reader, behind a
rectifier, is a quantization. No value changes here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Graph, Node

__all__ = ["cut_weights", "integer_layers", "layer_of", "rearrange_", "unread_layers"]

aten, operators = torch.ops.aten, torch.ops.quantized_decomposed
#: choose or rearrange elements of one input, so that rounding them before is the same
KEEPERS = frozenset(
    {
        *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.permute.default),
        *(aten.transpose.int, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.contiguous.default),
        *(aten.max_pool1d.default, aten.max_pool2d.default, aten.dropout.default, aten.clone.default),
    }
)
RECTIFIERS = frozenset({aten.relu.default, aten.relu_.default, aten.relu6.default, aten.hardtanh.default})
PRODUCTS = frozenset(
    {
        *(aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding),
        *(aten.conv2d.padding, aten.conv3d.padding, aten.conv_transpose1d.default, aten.conv_transpose2d.input),
    }
)


def rearrange_(program: Any) -> None:
    """Quantize once what is quantized several times, and before what only chooses or rearranges elements."""
    graph = program.graph_module.graph
    _share(graph)
    for node in list(graph.nodes):
        if _is_quantize(node):
            _lift(graph, node)
    _share(graph)
    _split(graph)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def integer_layers(program: Any) -> Iterator[tuple[Any, str]]:
    """Products of quantized inputs and int8 weights, with the names of their layers."""
    for node in program.graph_module.graph.nodes:
        if node.target in PRODUCTS and _is_dequantize(node.args[0]):
            weight = node.args[1]
            if weight.target is operators.dequantize_per_channel.default:
                yield node, layer_of(program, weight.args[0])


def layer_of(program: Any, tensor: Node) -> str:
    """The layer that a parameter or a buffer belongs to; "" for none."""
    known = program.graph_signature
    name: str = {**known.inputs_to_parameters, **known.inputs_to_buffers}.get(tensor.name, "")
    return name.rpartition(".")[0]


def cut_weights(program: Any) -> Iterator[str]:
    """Layers of which parts of a stored weight are dequantized, as an attention's to several inputs."""
    for node in program.graph_module.graph.nodes:
        if node.target is operators.dequantize_per_channel.default and node.args[0].op != "placeholder":
            whole = node.args[0]
            while whole.op != "placeholder":
                whole = whole.all_input_nodes[0]
            yield layer_of(program, whole)


def unread_layers(program: Any) -> list[str]:
    """Of those with a fixed grid the ones whose result is not quantized behind them."""
    return [
        name
        for node, name in integer_layers(program)
        if node.args[0].target is operators.dequantize_per_tensor.default and not _is_quantized(node)
    ]


def _is_quantized(node: Node) -> bool:
    reader = _only_reader(node)
    if reader is not None and reader.target in RECTIFIERS:
        reader = _only_reader(reader)
    return reader is not None and _is_quantize(reader)


def _only_reader(node: Node) -> Node | None:
    readers = list(node.users)
    return readers[0] if len(readers) == 1 else None


def _is_quantize(node: Any) -> bool:
    return isinstance(node, Node) and node.target is operators.quantize_per_tensor.default


def _is_dequantize(node: Any) -> bool:
    kinds = (operators.dequantize_per_tensor.default, operators.dequantize_per_tensor.tensor)
    return isinstance(node, Node) and node.target in kinds


def _share(graph: Any) -> None:
    """Let one node stand for all that do the same with the same values; codes of dequantized codes are the codes."""
    known: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if _is_quantize(node) and _is_dequantize(node.args[0]) and node.args[1:] == node.args[0].args[1:]:
            _replace(graph, node, node.args[0].args[0])
        elif _is_quantize(node) or _is_dequantize(node) or node.target is operators.choose_qparams.tensor:
            _replace(graph, node, known.setdefault((node.target, node.args), node))


def _split(graph: Any) -> None:
    """Let each reader dequantize by itself, so that the two can be computed as one operator, apart from the others."""
    for node in list(graph.nodes):
        if _is_dequantize(node):
            for reader in list(node.users)[1:]:
                with graph.inserting_before(reader):
                    reader.replace_input_with(node, graph.node_copy(node))


def _replace(graph: Graph, node: Node, other: Node) -> None:
    if other is not node:
        node.replace_all_uses_with(other)
        graph.erase_node(node)


def _lift(graph: Any, node: Any) -> None:
    """Round also what the chain of keepers before a quantization begins with, and the parts of a concatenation."""
    first, source = node, node.args[0]
    while isinstance(source, Node) and source.target in KEEPERS and len(source.users) == 1:
        first, source = source, source.args[0]
    if not isinstance(source, Node) or len(source.users) != 1:
        return
    if first is not node:
        first.replace_input_with(source, _rounded(graph, source, node, first))
    if source.target is aten.cat.default:
        parts: Any = source.args[0]
        source.update_arg(0, [_rounded(graph, part, node, source) for part in parts])


def _rounded(graph: Graph, value: Node, like: Node, before: Node) -> Node:
    """A value rounded as a quantization does it."""
    if _is_dequantize(value) and value.args[1:] == like.args[1:]:
        return value
    with graph.inserting_before(before):
        codes = _call(graph, like.target, (value, *like.args[1:]))
        return _call(graph, operators.dequantize_per_tensor.default, (codes, *like.args[1:]))


def _call(graph: Graph, operator: Any, arguments: tuple[Any, ...]) -> Node:
    """A node of the graph, with the shape of what it gives."""
    node = graph.call_function(operator, arguments)
    node.meta["val"] = operator(*(each.meta["val"] if isinstance(each, Node) else each for each in arguments))
    return node
