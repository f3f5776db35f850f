"""Weights of an ONNX file as unsigned numbers, where signed ones overflow on this processor.

On x86 processors without VNNI onnxruntime sums pairs of products of unsigned inputs and signed weights in 16 bits,
which overflow (255 x 127 twice is more than 32,767). Products of two unsigned numbers do not, and are slower. So all
weights are made unsigned, 128 more with the zero point 128, and then each layer is tried out with signed ones.
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

    Args:
        run: opens a model, given as bytes, and gives its outputs for some samples.
    """
    onnx = require("onnx", "onnx")
    model = onnx.load(path)
    weights = list(_stored(onnx, model))
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
    known = {each.name: each for each in model.graph.initializer}
    unpacking = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    changed = False
    for node in unpacking:
        codes = known.get(node.input[0]) if node.name.startswith(f"{layer}{SEPARATOR}") else None
        if codes is None or codes.data_type != onnx.TensorProto.INT8 or len(codes.dims) < 2:
            continue
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
        ratio = _limit(onnx, codes, known[node.input[1]], axis)
        if ratio is not None:
            changed = True
            for reader in (each for each in unpacking if each.input[0] == codes.name):
                _raise_scale(onnx, model, reader, known, ratio)
    onnx.save(model, path)
    return changed


def _limit(onnx: Any, codes: Any, scale: Any, axis: int) -> Any:
    """Round codes anew where pairs of them are too large; by how much the scale of each channel is larger then, None
    where nothing is to be done."""
    limited = limited_pairs(onnx.numpy_helper.to_array(codes), axis) if len(scale.dims) == 1 else None
    if limited is None:
        return None
    codes.CopyFrom(onnx.numpy_helper.from_array(limited[0], codes.name))
    return limited[1]


def _raise_scale(onnx: Any, model: Any, node: Any, known: dict[str, Any], ratio: Any) -> None:
    """Multiply the scale of a node's codes, which other codes may have too."""
    scales = onnx.numpy_helper.to_array(known[node.input[1]])
    name = f"{node.name}_scale"
    model.graph.initializer.append(
        onnx.numpy_helper.from_array((scales * ratio).astype(scales.dtype), f"{name}_{len(known)}")
    )
    node.input[1] = model.graph.initializer[-1].name
    known[node.input[1]] = model.graph.initializer[-1]


def _stored(onnx: Any, model: Any) -> Iterable[Sequence[Any]]:
    """The signed weights of each node, with their zero points, which no other weight has."""
    known = {each.name: each for each in model.graph.initializer}
    for node in list(model.graph.node):
        found = []
        for codes, zero in PLACES.get(node.op_type, ()):
            tensor = known.get(node.input[codes]) if codes < len(node.input) else None
            if tensor is not None and tensor.data_type == onnx.TensorProto.INT8 and tensor.dims:
                found += [tensor, _zero_point(onnx, model, node, zero, known)]
        if found:
            yield [tensor for tensor in found if tensor is not None]


def _zero_point(onnx: Any, model: Any, node: Any, place: int, known: dict[str, Any]) -> Any:
    """The zero point of a node's weights; a new one where it had none."""
    if place < len(node.input) and node.input[place]:
        return known.get(node.input[place])
    node.input.extend([""] * (place + 1 - len(node.input)))
    node.input[place] = f"{node.name}_zero_point"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.int8), node.input[place]))
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
