"""What is known of the values of a graph of ONNX, and new nodes and constants for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Values"]

#: types of four bits, and those that hold their numbers too
WIDER = {"INT4": "INT8", "UINT4": "UINT8"}


class Values:
    """The types, shapes and constants of a model (`onnx.ModelProto`), by name; makes nodes with names that are new."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self.onnx, self.model = onnx, model
        self._widen_constants()
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.types = {each.name: each.type for each in (*inferred.value_info, *inferred.input, *inferred.output)}
        self.initializers = {each.name: each for each in model.graph.initializer}
        self.constants = {
            node.output[0]: attribute.t
            for node in model.graph.node
            for attribute in node.attribute
            if node.op_type == "Constant" and attribute.name == "value"
        }
        self.count = 0

    def kind(self, name: str) -> str | None:
        """The type of a tensor's elements in the words of the schemas, such as ``int8``; None: it is not known."""
        number = self._elements(name)
        return self.onnx.TensorProto.DataType.Name(number).lower() if number else None

    def shape(self, name: str) -> list[int | None] | None:
        """The sizes of a tensor, None where one is not fixed; None: their number is not known."""
        if name in self.initializers:
            return list(self.initializers[name].dims)
        kind = self.types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        return [each.dim_value if each.HasField("dim_value") else None for each in kind.tensor_type.shape.dim]

    def type_proto(self, name: str) -> Any:
        """What `onnx` calls the type: elements and shape."""
        if name in self.types or not self._elements(name):
            return self.types.get(name, self.onnx.TypeProto())
        return self.onnx.helper.make_tensor_type_proto(self._elements(name), self.shape(name))

    def constant(self, name: str) -> Any:
        """The values of a constant as an array; None: it is none."""
        found = self.initializers.get(name) or self.constants.get(name)
        return None if found is None else self.onnx.numpy_helper.to_array(found)

    def add_constant(self, values: Any, kind: Any = np.int64) -> str:
        """A new constant; its name."""
        tensor = self.onnx.numpy_helper.from_array(np.asarray(values, kind), self._new("constant"))
        self.model.graph.initializer.append(tensor)
        self.initializers[tensor.name] = tensor
        return str(tensor.name)

    def node(
        self, like: Any, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> Any:
        """A new node in the layer of another one.

        Args:
            output: its name; None: a new one.
        """
        name = self._new(like.name)
        return self.onnx.helper.make_node(operator, list(inputs), [output or f"{name}_{operator}"], name, **attributes)

    def attribute(self, node: Any, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        found = next((each for each in node.attribute if each.name == name), None)
        return default if found is None else self.onnx.helper.get_attribute_value(found)

    def _elements(self, name: str) -> int:
        if name in self.initializers:
            return int(self.initializers[name].data_type)
        kind = self.types.get(name)
        return int(kind.tensor_type.elem_type) if kind is not None else 0

    def _new(self, name: str) -> str:
        self.count += 1
        return f"{name}_older_{self.count}"

    def _widen_constants(self) -> None:
        """Constants of four bits that are only cast to another type are as good in eight."""
        kinds = self.onnx.TensorProto.DataType
        readers: dict[str, set[str]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                readers.setdefault(name, set()).add(node.op_type)
        for tensor in self.model.graph.initializer:
            wider = WIDER.get(kinds.Name(tensor.data_type))
            if wider is not None and readers.get(tensor.name) == {"Cast"}:
                values = self.onnx.numpy_helper.to_array(tensor).astype(wider.lower())
                tensor.CopyFrom(self.onnx.numpy_helper.from_array(values, tensor.name))
                for told in [each for each in self.model.graph.value_info if each.name == tensor.name]:
                    self.model.graph.value_info.remove(told)
