"""A file of ONNX with each constant in the fewest bytes: what unpacks it is part of the graph, reads constants alone,
and is computed once, when an engine opens the file.

Zeros and few different values, which pruning and clustering leave, take no bytes of the file then, as in Deep
Compression (Han et al., arXiv:1510.00149, sections 2 and 3), whose gaps between entries these are. Huffman's code is
left to whoever zips the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paredown.integrations.export.calling import require
from paredown.integrations.export.onnx_graph import SEPARATOR
from paredown.integrations.export.onnx_names import short_names
from paredown.integrations.export.packed_codes import Code, Entries, codes_of
from paredown.integrations.export.packed_nodes import Folds, Tape, known_positions, write
from paredown.integrations.export.packed_products import products_of

__all__ = ["pack_file", "packed"]

#: less is not worth an operator
LEAST_BYTES = 32
#: of the codes that promise the fewest bytes, how many are written to see what they take
TRIED = 4
#: above this a file's constants lie beside it
LARGEST_FILE = 2**31 - 2**20
KINDS = ("float32", "int8", "uint8", "int32", "int64")
#: types of half a byte, and those in which they are unpacked
HALF_BYTES = {"int4": np.int8, "uint4": np.uint8}


def pack_file(
    source: Path, target: Path, folds: Folds, plain: Collection[str] = (), more: int = 0
) -> Mapping[str, str]:
    """Write a file of ONNX with its constants packed; it is never larger.

    Args:
        folds: of the engine's profile.
        plain: names of constants that stay as they are.
        more: bytes that an operator or a constant takes in another format that the file is converted to.

    Returns:
        The constants that are packed: by the name of each what it is, and in which layer.
    """
    onnx = require("onnx", "onnx")
    model = onnx.load(source)
    made = packed(model, folds, plain, more)
    beside = {"save_as_external_data": True, "location": f"{target.name}.data"}
    onnx.save(model, target, **(beside if model.ByteSize() > LARGEST_FILE else {}))
    return made


def packed(model: Any, folds: Folds, plain: Collection[str] = (), more: int = 0) -> Mapping[str, str]:
    """Pack the constants of a model's graph, in place; see `pack_file`."""
    onnx, graph = require("onnx", "onnx"), model.graph
    fixed = {*plain, *(value.name for value in (*graph.input, *graph.output))}
    arrays = {each.name: _array(onnx, each) for each in graph.initializer if each.name not in fixed}
    floats = {name: array for name, array in arrays.items() if array.dtype == np.float32}
    vectors = {name: array for name, array in floats.items() if array.ndim == 1 and array.nbytes >= LEAST_BYTES}
    products = products_of(vectors, {name: array for name, array in floats.items() if not array.ndim})
    packing = _Packing(graph, folds, more, _names(graph))
    for tensor in [each for each in graph.initializer if each.name not in products]:
        array = arrays.get(tensor.name)
        if array is not None and array.nbytes >= LEAST_BYTES and array.dtype.name in KINDS:
            packing.try_codes(tensor, array)
    for tensor in [each for each in graph.initializer if each.name in products and each.ByteSize() > more]:
        packing.multiply(tensor, *products[tensor.name])
    packing.finish()
    return packing.made


@dataclass
class _Packing:
    """One graph on its way.

    Attributes:
        names: for new values.
        made: by the names of the constants that are packed what they are.
        shared: names of constants that unpacking reads, by their content.
        nodes: that unpack.
    """

    graph: Any
    folds: Folds
    more: int
    names: Iterator[str]
    made: dict[str, str] = field(default_factory=dict)
    shared: dict[Any, str] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)

    def try_codes(self, tensor: Any, array: Any) -> None:
        """Unpack a constant from the code that takes the fewest bytes, if these are fewer than its own."""
        layouts = {turned: Entries(array, turned) for turned in ((False, True) if array.ndim > 1 else (False,))}
        positions = known_positions(self.folds)
        codes = [code for turned, each in layouts.items() for code in codes_of(each, turned, positions)]
        tapes = (self._written(layouts[code.turned], code, tensor) for code in _most_promising(codes, array.nbytes))
        best = min(tapes, key=self._price, default=None)
        if best is not None and self._price(best) < tensor.ByteSize():
            self._take(best, tensor)

    def _price(self, tape: Tape) -> int:
        return tape.bytes + self.more * (len(tape.nodes) + len(tape.constants))

    def multiply(self, tensor: Any, vector: str, number: str) -> None:
        """Make a constant the product of two others."""
        tape = Tape(self.shared, self.names)
        tape.add("Mul", vector, number)
        self._take(tape, tensor)

    def finish(self) -> None:
        """Put what unpacks in front of what computes; shapes, which say nothing new, go."""
        rest = list(self.graph.node)
        del self.graph.node[:]
        del self.graph.value_info[:]
        self.graph.node.extend([*self.nodes, *rest])

    def _written(self, entries: Entries, code: Code, tensor: Any) -> Tape:
        tape = Tape(self.shared, self.names)
        write(tape, self.folds, entries, code, tuple(tensor.dims))
        if tape.onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name in HALF_BYTES:
            tape.add("Cast", tape.nodes[-1].output[0], to=tensor.data_type)
        return tape

    def _take(self, tape: Tape, tensor: Any) -> None:
        name = tensor.name
        self.graph.initializer.remove(tensor)
        tape.named(name)
        self.nodes += tape.nodes
        self.graph.initializer.extend(tape.constants)
        self.shared.update(tape.shared)
        self.made[name] = _told(self.graph, tensor)


def _told(graph: Any, tensor: Any) -> str:
    """The name and the sizes of a constant, and the layer that reads it."""
    readers = (node.name.partition(SEPARATOR) for node in graph.node if tensor.name in node.input)
    layer = next((name for name, separator, _ in readers if separator), None)
    sizes = f"{tensor.name}, {' x '.join(map(str, tensor.dims))}"
    return sizes if layer is None else f"{sizes} of the layer {layer}"


def _array(onnx: Any, tensor: Any) -> Any:
    array = onnx.numpy_helper.to_array(tensor)
    return array.astype(HALF_BYTES.get(array.dtype.name, array.dtype))


def _most_promising(codes: Collection[Code], size: int) -> list[Code]:
    return sorted((code for code in codes if code.payload < size), key=lambda code: code.payload)[:TRIED]


def _names(graph: Any) -> Iterator[str]:
    """Short ones that the graph does not have."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    return short_names(taken | {each.name for each in (*graph.initializer, *graph.input, *graph.output)}, "_")
