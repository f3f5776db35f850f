"""What a file of ONNX says beside what it computes, left out: of a small model that is longer than the weights."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from paredown.integrations.export.calling import require

__all__ = ["leave_out_defaults", "leave_out_notes", "short_names", "shorten_names"]


def short_names(taken: Collection[str], first: str = "") -> Iterator[str]:
    """Names that are not taken: 0, 1, ..., z, 10, ...

    Args:
        first: what each begins with.
    """
    names = (first + np.base_repr(number, 36).lower() for number in itertools.count())
    return (name for name in names if name not in taken)


def shorten_names(model: Any) -> None:
    """Give short names to the values between the inputs and the outputs of a graph (of onnx_ir); nodes lose theirs."""
    graph = model.graph
    names = short_names(_names(model))
    for node in graph:
        node.name = None
    for value in (*graph.initializers.values(), *(value for node in graph for value in node.outputs)):
        if value.name and not value.is_graph_input() and not value.is_graph_output():
            value.name = next(names)


def leave_out_defaults(model: Any) -> None:
    """Leave out the attributes that have the value that they have by default."""
    onnx = require("onnx", "onnx")
    opset = model.opset_imports[""]
    for node in model.graph:
        if node.domain not in ("", "ai.onnx"):
            continue
        known = onnx.defs.get_schema(node.op_type, opset).attributes
        for name, attribute in list(node.attributes.items()):
            default = known[name].default_value if name in known else None
            if default and default.type and _same(onnx.helper.get_attribute_value(default), attribute.value):
                del node.attributes[name]


def leave_out_notes(model: Any) -> None:
    """Leave out the exporter's notes, what engines infer (the types and shapes of values), and unused constants."""
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
    inside = [value for node in graph for value in node.outputs if not value.is_graph_output()]
    for value in (*inside, *graph.initializers.values()):  # these have them in their tensors
        value.type = value.shape = None
    for value in (*inside, *graph.initializers.values(), *graph.inputs, *graph.outputs):
        value.metadata_props.clear()
    graph.metadata_props.clear()
    model.metadata_props.clear()


def _names(model: Any) -> Collection[str]:
    """Of all values, also in the graphs inside."""
    graphs = [model.graph, *model.graph.subgraphs()]
    own = (value for graph in graphs for value in (*graph.inputs, *graph.initializers.values()))
    made = (value for graph in graphs for node in graph for value in node.outputs)
    return {value.name for value in (*own, *made)}


def _same(default: Any, value: Any) -> bool:
    default = default.decode() if isinstance(default, bytes) else default
    return bool(default == value)
