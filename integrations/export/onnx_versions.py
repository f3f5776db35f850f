"""A graph of ONNX in an older version of its operators (opset), for readers that know no newer one.

Each node is compared with the schema that its operator has in that version: attributes, inputs, types of tensors. What
does not fit is written in other operators (`paredown.integrations.export.onnx_rewrites`, or the body that ONNX itself
defines for some operators), or is an error that names the layer and the version that it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from paredown.framework.errors import ExportError
from paredown.integrations.export.calling import reason_of, require
from paredown.integrations.export.onnx_body import body_of
from paredown.integrations.export.onnx_graph import SEPARATOR
from paredown.integrations.export.onnx_rewrites import MODES, RENAMED, REWRITES
from paredown.integrations.export.onnx_values import Values

__all__ = ["OLDEST", "lower_", "refuse_unknown"]

#: the version whose operators have axes as inputs where ours do, and quantization by channels
OLDEST = 13
NARROW = "narrow=False stores such weights as int8, for any opset"
#: faults that a message lists
SHOWN = 5


def refuse_unknown(opset: Any) -> None:
    """Raise ExportError for a version that is too old, or newer than those of the installed package."""
    newest = require("onnx", "onnx").defs.onnx_opset_version()
    if isinstance(opset, bool) or not isinstance(opset, int) or not OLDEST <= opset <= newest:
        raise ExportError(f"opset {opset!r}: a number from {OLDEST} to {newest} is wanted")


def lower_(model: Any, opset: int) -> None:
    """Bring a model (`onnx.ModelProto`) to an older opset, and to the version of the format that belongs to it.

    Raises:
        ExportError: a layer needs a newer one; all such layers are named, with what they need.
    """
    onnx: Any = require("onnx", "onnx")
    newest = next(each for each in model.opset_import if each.domain in ("", "ai.onnx"))
    lowering = _Lowering(onnx, model, opset, newest.version)
    lowering.graph(model.graph)
    if lowering.faults:
        raise ExportError(_told(opset, lowering.faults))
    newest.version = opset
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    del model.graph.value_info[:]  # of values that are written otherwise now
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # onnx has exceptions of its own
        raise ExportError(f"the model cannot be written in opset {opset}: {reason_of(error)}") from error


def _told(opset: int, faults: Sequence[str]) -> str:
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    hint = f"; {NARROW}" if any("DequantizeLinear" in fault for fault in faults) else ""
    return f"the model cannot be written in opset {opset}: {'; '.join(faults[:SHOWN])}{more}{hint}"


class _Lowering:
    """Goes through the graphs of a model, and gathers what cannot be written.

    Args:
        opset: the version that is wanted.
        newest: the version that the model has.
    """

    def __init__(self, onnx: Any, model: Any, opset: int, newest: int) -> None:
        self.onnx, self.opset, self.newest = onnx, opset, newest
        self.values = Values(onnx, model)
        self.faults: list[str] = []

    def graph(self, graph: Any) -> None:
        """Rewrite a graph, and those inside of its nodes."""
        written = [new for node in graph.node for new in self._written(node)]
        del graph.node[:]
        graph.node.extend(written)
        for node in graph.node:
            for attribute in node.attribute:
                for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    self.graph(inner)

    def _written(self, node: Any, before: frozenset[str] = frozenset()) -> list[Any]:
        """The nodes in the place of a node.

        Args:
            before: the faults of the nodes in whose place it stands: one that comes again cannot be mended.
        """
        if node.domain not in ("", "ai.onnx"):
            return [node]
        self._without_defaults(node)
        fault = self._fault(node, self.opset)
        if fault is None:
            return [node]
        known = f"{node.op_type}: {fault}"
        news = None if known in before else self._otherwise(node)
        if news is None:
            self.faults.append(self._complaint(node, known))
            return [node]
        return [written for new in news for written in self._written(new, before | {known})]

    def _otherwise(self, node: Any) -> list[Any] | None:
        """A node in other operators."""
        rewrite = REWRITES.get(node.op_type)
        news = None if rewrite is None else rewrite(self.values, node)
        return body_of(self.onnx, self.values, node, self.newest) if news is None else news

    def _complaint(self, node: Any, fault: str) -> str:
        layer, separator, _ = node.name.partition(SEPARATOR)
        later = range(self.opset + 1, self.newest + 1)
        needed = next((version for version in later if self._fault(node, version) is None), self.newest)
        place = f"layer {layer or '(the model)'}" if separator else f"node {node.name}"
        return f"{place} needs opset {needed} ({fault})"

    def _without_defaults(self, node: Any) -> None:
        """Leave out attributes with the value that the operator has without them."""
        schema, older = self._schema(node, self.newest), self._schema(node, self.opset)
        for attribute in list(node.attribute):
            default = _default(self.onnx, schema, attribute.name)
            known = older is None or attribute.name in older.attributes
            same = not known or older is None or default == _default(self.onnx, older, attribute.name)
            if default is not None and same and self.onnx.helper.get_attribute_value(attribute) == default:
                node.attribute.remove(attribute)

    def _fault(self, node: Any, opset: int) -> str | None:
        """What of a node this version does not know."""
        schema = self._schema(node, opset)
        if schema is None or schema.deprecated:
            return "there is no such operator"
        unknown = [attribute.name for attribute in node.attribute if attribute.name not in schema.attributes]
        if unknown:
            return f"it has no attribute {unknown[0]}"
        if len(node.input) > schema.max_input:
            return f"it takes {schema.max_input} inputs, not {len(node.input)}"
        if opset < RENAMED.get(node.op_type, 0) and self.values.attribute(node, "mode") in MODES:
            return "its modes have other names"
        return self._type_fault(node.input, schema.inputs) or self._type_fault(node.output, schema.outputs)

    def _type_fault(self, names: Iterable[str], formal: Sequence[Any]) -> str | None:
        for number, name in enumerate(names):
            kind = self.values.kind(name)
            if kind is not None and f"tensor({kind})" not in formal[min(number, len(formal) - 1)].types:
                return f"it takes no {kind}"
        return None

    def _schema(self, node: Any, opset: int) -> Any:
        try:
            return self.onnx.defs.get_schema(node.op_type, opset, "")
        except self.onnx.defs.SchemaError:
            return None


def _default(onnx: Any, schema: Any, name: str) -> Any:
    """The value of an attribute that is not given; None: there is none."""
    attribute = None if schema is None else schema.attributes.get(name)
    if attribute is None or not attribute.default_value.type:
        return None
    return onnx.helper.get_attribute_value(attribute.default_value)
