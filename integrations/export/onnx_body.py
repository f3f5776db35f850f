"""Operators of ONNX that are defined by others: their bodies in the place of their nodes."""

from __future__ import annotations

from typing import Any

from paredown.integrations.export.onnx_values import Values

__all__ = ["body_of"]


def body_of(onnx: Any, values: Values, node: Any, newest: int) -> list[Any] | None:
    """The nodes that compute what a node does, as ONNX defines its operator; None: it is not defined by others.

    Args:
        newest: the version of operators that the node is of.
    """
    schema = onnx.defs.get_schema(node.op_type, newest, "")
    body = _body(onnx, values, schema, node)
    if body is None:
        return None
    names = dict(zip(body.input, node.input, strict=False))
    names |= dict.fromkeys(body.input[len(node.input) :], "")
    names |= dict(zip(body.output, node.output, strict=False))
    given = {attribute.name: attribute for attribute in node.attribute}
    given |= {each.name: each for each in body.attribute_proto if each.name not in given}
    return [_inside(values, node, inner, names, given) for inner in body.node]


def _body(onnx: Any, values: Values, schema: Any, node: Any) -> Any:
    if schema.has_context_dependent_function:
        version = schema.context_dependent_function_opset_versions[0]
        kinds = [values.type_proto(name).SerializeToString() for name in node.input]
        content = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), kinds)
    elif schema.has_function:
        content = schema.get_function_with_opset_version(schema.function_opset_versions[0])
    else:
        return None
    if not isinstance(content, bytes):
        return content
    body = onnx.FunctionProto()
    body.ParseFromString(content)
    return body


def _inside(values: Values, node: Any, inner: Any, names: dict[str, str], given: dict[str, Any]) -> Any:
    """A node of a body with the names and the attributes of the node in whose place it stands."""
    inputs = [names.get(name, name) for name in inner.input]
    new = values.node(node, inner.op_type, inputs)
    del new.output[:]
    for output in inner.output:
        names.setdefault(output, f"{new.name}_{output}" if output else "")
        new.output.append(names[output])
    for attribute in inner.attribute:
        source = given.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
        if source is not None:
            added = new.attribute.add()
            added.CopyFrom(source)
            added.name = attribute.name
    return new
