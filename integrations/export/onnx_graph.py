"""What is done to a graph of ONNX before it is saved: narrow types, own zero points, one zero, names of layers."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from paredown.integrations.export.calling import require
from paredown.integrations.export.stored_weights import CONSTANT

__all__ = [
    "SEPARATOR",
    "computed_by_layer",
    "give_own_zero_points",
    "merge_zeros",
    "name_by_layer",
    "pack",
    "unpack_when_opened",
]

#: narrow types by their number in onnx.TensorProto, and what they are packed from
PACKED = {21: "UINT4", 22: "INT4"}
SCOPES = "pkg.torch.onnx.name_scopes"
#: between a layer's name and the rest of a node's
SEPARATOR = "|"
#: by operator the places of zero points of weights, and by these the places of the weights
PLACES = {"DequantizeLinear": (2,), "DynamicQuantizeLSTM": (9, 11)}
WEIGHTS = {2: 0, 9: 1, 11: 2}
ROUNDING = ("QuantizeLinear", "DequantizeLinear", "Clip")


def pack(model: Any) -> None:
    """Store what is cast to a four-bit type in that type."""
    ir: Any = require("onnx_ir", "onnx")
    graph = model.graph
    for node in list(graph):
        if node.op_type != "Cast" or node.attributes["to"].as_int() not in PACKED:
            continue
        source = node.inputs[0]
        kind = ir.DataType(node.attributes["to"].as_int())
        codes = source.const_value.numpy()
        name = f"{source.name}_{kind.name.lower()}"
        value = _constant(ir, graph, name, ir.Tensor(codes.astype(kind.numpy()), dtype=kind, name=name))
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        graph.remove(node, safe=True)
        if not source.uses():
            del graph.initializers[source.name]


def give_own_zero_points(model: Any) -> None:
    """Let no two stored weights share a zero point: onnxruntime cannot change their types then."""
    ir: Any = require("onnx_ir", "onnx")
    graph, taken = model.graph, set()
    for node, place, zero in _zero_points(graph):
        if zero.name in taken:
            first = f"{node.inputs[WEIGHTS[place]].name}_zero_point"
            names = (first if not number else f"{first}_{number}" for number in itertools.count())
            name = next(each for each in names if each not in graph.initializers)
            copied = ir.Tensor(zero.const_value.numpy(), dtype=zero.dtype, name=name)
            zero = _constant(ir, graph, name, copied)
            node.replace_input_with(place, zero)
        taken.add(zero.name)


def unpack_when_opened(model: Any, blocks: bool = False) -> None:
    """Write the values of constant codes, (codes - zero point) x scale, in operators that a runtime folds when it opens
    the file: left as DequantizeLinear they are computed at every call.

    Args:
        blocks: of all codes with scales of blocks, too.
    """
    ir: Any = require("onnx_ir", "onnx")
    graph = model.graph
    for node in list(graph):
        if node.op_type != "DequantizeLinear":
            continue
        codes, scale, zero = (*node.inputs, None)[:3]
        axis, block = (node.attributes[key].as_int() if key in node.attributes else 0 for key in ("axis", "block_size"))
        if CONSTANT not in (codes.name or "") and not (blocks and block):
            continue
        shape = [int(size) for size in codes.shape]
        parts = [None if part is None else _spread(ir, graph, part, shape, axis, block) for part in (scale, zero)]
        tape = _Tape(ir, graph, node)
        values = tape.add("Cast", codes, to=ir.DataType.FLOAT)
        if block:
            values = tape.add("Reshape", values, tape.shape(_split(shape, axis, block)))
        if parts[1] is not None:
            values = tape.add("Sub", values, tape.add("Cast", parts[1], to=ir.DataType.FLOAT))
        values = tape.add("Mul", values, parts[0])
        if block:
            values = tape.add("Reshape", values, tape.shape(shape))
        ir.convenience.replace_all_uses_with(node.outputs[0], values)
        graph.remove(node, safe=True)


def merge_zeros(model: Any) -> None:
    """Make -0.0 in matrices 0.0, which is the same number: a mask that weights were multiplied by leaves both."""
    ir: Any = require("onnx_ir", "onnx")
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and len(value.shape) > 1:
            values = value.const_value.numpy()
            if np.signbit(values[values == 0]).any():
                value.const_value = ir.Tensor(values + np.float32(0), dtype=value.dtype, name=value.name)


class _Tape:
    """New nodes before another one, in its layer."""

    def __init__(self, ir: Any, graph: Any, before: Any) -> None:
        self.ir, self.graph, self.before = ir, graph, before

    def add(self, operator: str, *inputs: Any, **attributes: Any) -> Any:
        name = f"{self.before.outputs[0].name}_{operator.lower()}_{len(self.graph)}"
        given = [self.ir.Attr(key, self.ir.AttributeType.INT, int(value)) for key, value in attributes.items()]
        node = self.ir.Node("", operator, list(inputs), given, outputs=[self.ir.Value(name=name)], name=name)
        node.metadata_props.update(self.before.metadata_props)
        self.graph.insert_before(self.before, node)
        return node.outputs[0]

    def shape(self, sizes: list[int]) -> Any:
        name = f"{self.before.outputs[0].name}_shape_{'x'.join(map(str, sizes))}"
        return _constant(self.ir, self.graph, name, self.ir.tensor(np.array(sizes, np.int64)))


def _spread(ir: Any, graph: Any, part: Any, shape: list[int], axis: int, block: int) -> Any:
    """A scale or zero point in the shape that broadcasts against the codes."""
    values = part.const_value.numpy()
    if values.ndim == 0:
        return part
    sizes = list(values.shape) if block else [1] * len(shape)
    if block:
        sizes.insert(axis + 1, 1)
    else:
        sizes[axis] = values.size
    name = f"{part.name}_by_{'x'.join(map(str, sizes))}"
    known = graph.initializers.get(name)
    return known or _constant(ir, graph, name, ir.Tensor(values.reshape(sizes), dtype=part.dtype, name=name))


def _split(shape: list[int], axis: int, block: int) -> list[int]:
    return [*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :]]


def name_by_layer(model: Any, layers: Collection[str], prefix: str = "") -> Mapping[str, str]:
    """Begin the name of each node with that of the layer in which it is.

    Args:
        layers: names of modules.
        prefix: of their names in the traced module.

    Returns:
        By layer the name of the last value that it makes.
    """
    results: dict[str, str] = {}
    for number, node in enumerate(model.graph):
        layer = _layer_of(node, layers, prefix)
        if layer is None:
            continue
        node.name = f"{layer}{SEPARATOR}{np.base_repr(number, 36).lower()}"
        if node.op_type not in ROUNDING:
            results[layer] = node.outputs[0].name
    return results


def computed_by_layer(nodes: Iterable[tuple[str, bool]]) -> Mapping[str, str]:
    """By layer "integer" or "float".

    Args:
        nodes: of the graph that an engine made: names begun by `name_by_layer`, and whether they compute in integers.
    """
    found: dict[str, str] = {}
    for name, integer in nodes:
        layer, separator, _ = name.partition(SEPARATOR)
        if separator and found.get(layer) != "integer":
            found[layer] = "integer" if integer else "float"
    return found


def _zero_points(graph: Any) -> Iterator[tuple[Any, int, Any]]:
    """The zero points of stored weights, with the nodes that read them and their places among the inputs."""
    for node in graph:
        for place in PLACES.get(node.op_type, ()):
            zero = node.inputs[place] if place < len(node.inputs) else None
            if zero is not None and zero.is_initializer() and node.inputs[WEIGHTS[place]].is_initializer():
                yield node, place, zero


def _layer_of(node: Any, layers: Collection[str], prefix: str) -> str | None:
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    names = [scope.removeprefix(prefix) for scope in scopes[:-1] if scope.startswith(prefix)]
    return next((name for name in reversed(names) if name in layers), None)


def _constant(ir: Any, graph: Any, name: str, tensor: Any) -> Any:
    tensor.name = name
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value
