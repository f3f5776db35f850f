"""Weights of an ONNX file that overflow on this processor, written otherwise.

On x86 processors without VNNI pairs of products of unsigned inputs and signed weights are summed in 16 bits, which
overflow (255 x 127 twice is more than 32,767). Two ways out: products of two unsigned numbers, 128 more with the zero
point 128, which are the same numbers and slower; or larger scales for the channels with large pairs, as fast and less
exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paredown.integrations.export.calling import require
from paredown.integrations.export.limited_pairs import limited_pairs
from paredown.integrations.export.onnx_graph import SEPARATOR

__all__ = ["limit_pairs", "use_unsigned_weights"]

Run = Callable[[bytes], list[Any]]
#: of the outputs' root mean square: what changes by less has not overflowed
TOLERANCE = 1e-4
#: by operator the places of its weights and of their zero points
PLACES = {"DequantizeLinear": ((0, 2),), "MatMulInteger": ((1, 3),), "DynamicQuantizeLSTM": ((1, 9), (2, 11))}


def use_unsigned_weights(path: Path, run: Run) -> bool:
    """Rewrite a file with unsigned weights where signed ones overflow; whether any does.

    All are made unsigned, which does not overflow, and then each is tried out signed.

    Args:
        run: opens a model, given as bytes, and gives its outputs for some samples.
    """
    onnx = require("onnx", "onnx")
    model = onnx.load(path)
    weights = _stored(onnx, model)
    signed = run(model.SerializeToString())
    for tensors in weights:
        _shift(onnx, tensors, 128)
    want = run(model.SerializeToString())
    if _same(want, signed):
        return False
    for tensors in weights:
        _shift(onnx, tensors, -128)
        if not _same(want, run(model.SerializeToString())):
            _shift(onnx, tensors, 128)
    onnx.save(model, path)
    return True


def limit_pairs(path: Path, layer: str) -> bool:
    """Rewrite a file with larger scales for the channels of a layer in which two weights side by side can overflow;
    whether there are any.

    255 x (w1 + w2) stays within 16 bits where |w1 + w2| is at most 128: the channel's scale is raised by what its
    largest pair is above that, at most twofold, and its codes are rounded anew. Biases keep their scale.
    """
    onnx = require("onnx", "onnx")
    model = onnx.load(path)
    known, nodes = _known(model), list(_unpacking(model))
    names = {node.input[0]: None for node in nodes if node.name.startswith(f"{layer}{SEPARATOR}")}
    signed = [name for name in names if name in known and _is_signed_matrix(onnx, known[name])]
    changed = [_limit(onnx, model, [node for node in nodes if node.input[0] == name]) for name in signed]
    onnx.save(model, path)
    return any(changed)


def _limit(onnx: Any, model: Any, readers: Sequence[Any]) -> bool:
    """Limit the pairs of codes that nodes unpack; whether there is anything to do."""
    known = _known(model)
    codes, scale = (known[name] for name in readers[0].input[:2])
    axis = next((each.i for each in readers[0].attribute if each.name == "axis"), 1)
    limited = limited_pairs(onnx.numpy_helper.to_array(codes), axis) if len(scale.dims) == 1 else None
    if limited is None:
        return False
    codes.CopyFrom(onnx.numpy_helper.from_array(limited[0], codes.name))
    for node in readers:
        _rescale(onnx, model, node, limited[1])
    return True


def _rescale(onnx: Any, model: Any, node: Any, ratio: Any) -> None:
    """Multiply the scale of a node's codes, which other codes may have too."""
    scales = onnx.numpy_helper.to_array(_known(model)[node.input[1]])
    node.input[1] = _added(onnx, model, f"{node.name}_scale", (scales * ratio).astype(scales.dtype))


def _added(onnx: Any, model: Any, name: str, values: Any) -> str:
    """A new constant of the graph; its name."""
    name = f"{name}_{len(model.graph.initializer)}"
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return name


def _known(model: Any) -> dict[str, Any]:
    return {each.name: each for each in model.graph.initializer}


def _unpacking(model: Any) -> Iterable[Any]:
    """The nodes that unpack constants."""
    known = _known(model)
    return [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in known]


def _is_signed_matrix(onnx: Any, tensor: Any) -> bool:
    return bool(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1)


def _stored(onnx: Any, model: Any) -> list[Sequence[Any]]:
    """The signed weights, each with the zero points of the nodes that read it; those of one LSTM together."""
    known = _known(model)
    found: dict[str, dict[str, Any]] = {}
    for node in list(model.graph.node):
        for codes, zero in PLACES.get(node.op_type, ()):
            tensor = known.get(node.input[codes]) if codes < len(node.input) else None
            if tensor is None or tensor.data_type != onnx.TensorProto.INT8 or not tensor.dims:
                continue
            group = found.setdefault(node.name if node.op_type == "DynamicQuantizeLSTM" else tensor.name, {})
            group[tensor.name] = tensor
            point = _zero_point(onnx, model, node, zero, known)
            if point is not None:
                group[point.name] = point
    return [list(group.values()) for group in found.values()]


def _zero_point(onnx: Any, model: Any, node: Any, place: int, known: dict[str, Any]) -> Any:
    """The zero point of a node's weights; a new one where it had none."""
    if place < len(node.input) and node.input[place]:
        return known.get(node.input[place])
    node.input.extend([""] * (place + 1 - len(node.input)))
    node.input[place] = _added(onnx, model, f"{node.name}_zero_point", np.array(0, np.int8))
    return model.graph.initializer[-1]


def _shift(onnx: Any, tensors: Sequence[Any], by: int) -> None:
    """int8 to uint8 (128 more), or back."""
    kind = np.uint8 if by > 0 else np.int8
    for tensor in tensors:
        codes = onnx.numpy_helper.to_array(tensor).astype(np.int16) + by
        tensor.CopyFrom(onnx.numpy_helper.from_array(codes.astype(kind), tensor.name))


def _same(want: Iterable[Any], got: Iterable[Any]) -> bool:
    return all(
        np.square(one.astype(np.float64) - other).mean() <= TOLERANCE**2 * np.square(one.astype(np.float64)).mean()
        for one, other in zip(want, got, strict=True)
    )
