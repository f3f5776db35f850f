"""Operators of ONNX in those of older versions: by operator nodes in the place of a node, or None where there are none.

Patterns are those that runtimes fuse again: onnxruntime makes LayerNormalization and Gelu of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from paredown.integrations.export.onnx_values import Values

__all__ = ["MODES", "RENAMED", "REWRITES"]

Nodes = list[Any] | None
REDUCTIONS = ("Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
#: the versions since which modes have the names that they have now, and the older names (of two dimensions)
RENAMED = {"GridSample": 20}
MODES = {b"linear": "bilinear", b"cubic": "bicubic"}


def _changed(values: Values, node: Any, inputs: Any = None, without: tuple[str, ...] = (), **attributes: Any) -> Nodes:
    """The node itself with other inputs and attributes."""
    new = values.onnx.NodeProto()
    new.CopyFrom(node)
    if inputs is not None:
        del new.input[:]
        new.input.extend(inputs)
    for attribute in list(new.attribute):
        if attribute.name in without or attribute.name in attributes:
            new.attribute.remove(attribute)
    new.attribute.extend(values.onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    return [new]


def _reduction(values: Values, node: Any) -> Nodes:
    """18: axes are an input."""
    if len(node.input) < 2 or not node.input[1]:
        if values.attribute(node, "noop_with_empty_axes", 0):
            return [values.node(node, "Identity", node.input[:1], node.output[0])]
        return None
    axes = values.constant(node.input[1])
    if axes is None or not axes.size:
        return None
    return _changed(values, node, node.input[:1], ("noop_with_empty_axes",), axes=[int(axis) for axis in axes])


def _split(values: Values, node: Any) -> Nodes:
    """18: a number of outputs, of which the last may be smaller."""
    count, shape = values.attribute(node, "num_outputs"), values.shape(node.input[0])
    size = None if shape is None else shape[values.attribute(node, "axis", 0)]
    if size is None:
        return None
    part = math.ceil(size / count)
    sizes = [max(min(part, size - part * number), 0) for number in range(count)]
    return _changed(values, node, [node.input[0], values.add_constant(sizes)], ("num_outputs",))


def _shape(values: Values, node: Any) -> Nodes:
    """15: a part of the shape."""
    start, end = values.attribute(node, "start", 0), values.attribute(node, "end", np.iinfo(np.int64).max)
    whole = values.node(node, "Shape", node.input)
    ends = [values.add_constant([each]) for each in (start, end)]
    return [whole, values.node(node, "Slice", [whole.output[0], *ends], node.output[0])]


def _reshape(values: Values, node: Any) -> Nodes:
    """14: a 0 in the new shape means 0, not the size that is there; without a 0 both are one."""
    sizes = values.constant(node.input[1])
    return None if sizes is not None and (sizes == 0).any() else _changed(values, node, without=("allowzero",))


def _layer_normalization(values: Values, node: Any) -> Nodes:
    """17. Ba et al., 2016, arXiv:1607.06450."""
    shape = values.shape(node.input[0])
    if shape is None or len(node.output) > 1 or values.kind(node.input[0]) != "float":
        return None
    first = values.attribute(node, "axis", -1) % len(shape)
    axes = list(range(first - len(shape), 0))
    mean = values.node(node, "ReduceMean", node.input[:1], axes=axes)
    centred = values.node(node, "Sub", [node.input[0], mean.output[0]])
    square = values.node(node, "Pow", [centred.output[0], values.add_constant(2.0, np.float32)])
    variance = values.node(node, "ReduceMean", square.output, axes=axes)
    epsilon = values.add_constant(values.attribute(node, "epsilon", 1e-5), np.float32)
    widened = values.node(node, "Add", [variance.output[0], epsilon])
    deviation = values.node(node, "Sqrt", widened.output)
    nodes = [mean, centred, square, variance, widened, deviation]
    nodes.append(values.node(node, "Div", [centred.output[0], deviation.output[0]]))
    return nodes + _affine(values, node, nodes[-1].output[0], node.input[1:])


def _affine(values: Values, node: Any, name: str, given: Any) -> list[Any]:
    """A product with a factor and a sum with a shift, if there is one; the last has the node's output."""
    shift = given[1] if len(given) > 1 and given[1] else None
    product = values.node(node, "Mul", [name, given[0]], None if shift else node.output[0])
    return [product, values.node(node, "Add", [product.output[0], shift], node.output[0])] if shift else [product]


def _gelu(values: Values, node: Any) -> Nodes:
    """20. Hendrycks & Gimpel, 2016, arXiv:1606.08415."""
    x = node.input[0]
    if values.kind(x) != "float" or values.attribute(node, "approximate", b"none") != b"none":
        return None
    root, one, half = (values.add_constant(each, np.float32) for each in (math.sqrt(2.0), 1.0, 0.5))
    scaled = values.node(node, "Div", [x, root])
    error = values.node(node, "Erf", scaled.output)
    raised = values.node(node, "Add", [error.output[0], one])
    product = values.node(node, "Mul", [x, raised.output[0]])
    return [scaled, error, raised, product, values.node(node, "Mul", [product.output[0], half], node.output[0])]


def _group_normalization(values: Values, node: Any) -> Nodes:
    """21. Wu & He, 2018, arXiv:1803.08494: as instances of (batch, groups, all that is in a group)."""
    shape, groups = values.shape(node.input[0]), values.attribute(node, "num_groups")
    if shape is None or shape[1] is None or values.kind(node.input[0]) != "float":
        return None
    one, zero = (values.add_constant([each] * groups, np.float32) for each in (1.0, 0.0))
    epsilon = values.attribute(node, "epsilon", 1e-5)
    sizes = values.node(node, "Shape", node.input[:1])
    grouped = values.node(node, "Reshape", [node.input[0], values.add_constant([0, groups, -1])])
    normal = values.node(node, "InstanceNormalization", [grouped.output[0], one, zero], epsilon=epsilon)
    back = values.node(node, "Reshape", [normal.output[0], sizes.output[0]])
    across = values.add_constant([-1, *(1 for _ in shape[2:])])
    parts = [values.node(node, "Reshape", [name, across]) for name in node.input[1:]]
    return [sizes, grouped, normal, back, *parts, *_affine(values, node, back.output[0], [p.output[0] for p in parts])]


def _pad(values: Values, node: Any) -> Nodes:
    """18: for some axes alone."""
    shape = values.shape(node.input[0])
    pads, axes = (values.constant(node.input[place]) for place in (1, 3))
    if shape is None or pads is None or axes is None:
        return None
    whole = np.zeros((2, len(shape)), np.int64)
    whole[:, axes] = pads.reshape(2, -1)
    inputs = [node.input[0], values.add_constant(whole.flatten()), *node.input[2:3]]
    return _changed(values, node, inputs if inputs[-1] else inputs[:2])


def _triangle(values: Values, node: Any) -> Nodes:
    """14: what is on one side of a diagonal."""
    x, kind = node.input[0], values.kind(node.input[0])
    if kind is None:
        return None
    ends = [values.add_constant(each) for each in (-2, -1, 0, 1)]
    sizes = values.node(node, "Shape", [x])
    counts = [values.node(node, "Gather", [sizes.output[0], end]) for end in ends[:2]]
    ranges = [values.node(node, "Range", [ends[2], each.output[0], ends[3]]) for each in counts]
    rows = values.node(node, "Unsqueeze", [ranges[0].output[0], values.add_constant([1])])
    diagonal = node.input[1] if len(node.input) > 1 and node.input[1] else ends[2]
    edge = values.node(node, "Add", [rows.output[0], diagonal])
    side = "GreaterOrEqual" if values.attribute(node, "upper", 1) else "LessOrEqual"
    kept = values.node(node, side, [ranges[1].output[0], edge.output[0]])
    zero = values.add_constant(0, {"float": np.float32, "double": np.float64}.get(kind, kind))
    chosen = values.node(node, "Where", [kept.output[0], x, zero], node.output[0])
    return [sizes, *counts, *ranges, rows, edge, kept, chosen]


def _average_pool(values: Values, node: Any) -> Nodes:
    """19: places that lie apart."""
    beside = set(values.attribute(node, "dilations", ())) <= {1}
    return _changed(values, node, without=("dilations",)) if beside else None


def _grid_sample(values: Values, node: Any) -> Nodes:
    """20: other names of modes."""
    mode = values.attribute(node, "mode")
    return _changed(values, node, mode=MODES[mode]) if mode in MODES else None


REWRITES: Mapping[str, Callable[[Values, Any], Nodes]] = {
    **{f"Reduce{kind}": _reduction for kind in REDUCTIONS},
    "AveragePool": _average_pool,
    "Gelu": _gelu,
    "GridSample": _grid_sample,
    "GroupNormalization": _group_normalization,
    "LayerNormalization": _layer_normalization,
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": _shape,
    "Split": _split,
    "Trilu": _triangle,
}
