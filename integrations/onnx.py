"""Export to ONNX: quantizers become QuantizeLinear and DequantizeLinear, weights integers; checked in onnxruntime."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import ExportError
from paredown.framework.measure.latency import measure_latency
from paredown.framework.model.forward import Forward
from paredown.integrations.export.copy import dense_copy, export_copy
from paredown.integrations.export.verification import (
    Agreement,
    Called,
    Exported,
    agree,
    arguments,
    bytes_at,
    in_float64,
    inputs_of,
    outputs_of,
    quiet,
    reason_of,
    require,
)

__all__ = ["EXACT", "WITHOUT_OVERFLOW", "OnnxExport", "export"]

#: onnxruntime multiplies stored integers with float inputs by rounding the inputs to int8 too (three times as fast, and
#: about a step off); with this entry of the session's options it keeps them as they are
EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}
#: on x86 processors without VNNI onnxruntime sums products of unsigned inputs and signed weights in 16 bits, which
#: overflow; with this entry it uses slower kernels that do not
WITHOUT_OVERFLOW = {"session.x64quantprecision": "1"}
#: narrow types by their number in onnx.TensorProto, and what they are packed from
PACKED = {21: "UINT4", 22: "INT4"}


@dataclass(frozen=True)
class OnnxExport(Exported):
    """What was written, and what was measured in onnxruntime on the CPU; see also `Exported`.

    Attributes:
        operators: how often each operator is in the graph that onnxruntime made of it: QLinearConv, QGemm,
            MatMulInteger and their kin compute in integers.
        session_config: what was given to ``SessionOptions.add_session_config_entry`` for that agreement: give it
            to your own session too. Usually nothing; see `EXACT` and `WITHOUT_OVERFLOW`.
    """

    operators: Mapping[str, int] = field(default_factory=dict)
    session_config: Mapping[str, str] = field(default_factory=dict)


def export(
    model: nn.Module,
    example_inputs: Any,
    path: str | Path,
    *,
    forward: Forward | None = None,
    tolerance: float | None = None,
    opset: int = 21,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    repetitions: int = 20,
) -> OnnxExport:
    """Write a model as ONNX, load it in onnxruntime, compare and measure. The model stays as it is.

    Weights are stored as the integers of their quantizer (4 bits and less packed as INT4 or UINT4, groups by blocked
    DequantizeLinear); batch-norms are folded into quantized convolutions; biases behind a quantized input are int32.
    Inputs that are quantized dynamically become DynamicQuantizeLinear and, in linear layers, MatMulInteger. Recurrent
    layers and attentions compute in floats with their dequantized weights. Symmetric int8 activations reach the code
    -128, which the model leaves out.

    Args:
        example_inputs: a tensor, a tuple of positional arguments, or a dict of named ones.
        forward: called as ``forward(model, example_inputs)`` where the above does not fit.
        tolerance: the largest absolute difference of an output that is accepted. Default: one step of it, a 255th of
            its range, or twice what rounding does to the model: see `verification.agree`.
        opset: 21 or newer.
        dynamic_shapes, input_names, output_names: as of `torch.onnx.export`.
        repetitions: how often latency is measured; 0 leaves that, and the dense export for it, out.

    Raises:
        ExportError: a package is missing, something cannot be exported, or the outputs differ by more than the
            tolerance (the file stays, for a look into it).
    """
    runtime = require("onnxruntime", "onnx")
    if opset < 21:
        raise ExportError(f"opset {opset} has no blocked DequantizeLinear: 21 or newer is wanted")
    path = Path(path)
    written = _written(model, example_inputs, forward)
    options = {"dynamic_shapes": dynamic_shapes, "input_names": input_names, "output_names": output_names}
    _write(written, example_inputs, forward, path, opset, options)
    want = outputs_of(model, example_inputs, forward)

    def compare(got: Sequence[Tensor]) -> Agreement:
        return agree(want, got, tolerance, path, lambda: in_float64(model, example_inputs, forward))

    session, agreement = _checked(runtime, path, example_inputs, compare)
    result = OnnxExport(path, agreement, bytes_at(path), operators=session.operators, session_config=session.config)
    if repetitions < 2:
        return result
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.onnx"
        _write(dense_copy(model), example_inputs, forward, dense, opset, options)
        models = {"exported": session, "dense": _session(runtime, dense, {})}
        times = measure_latency(models, example_inputs, call_session, repetitions=repetitions)
        size = bytes_at(dense)
        del models
    return dataclasses.replace(result, dense_bytes=size, latency=times["exported"], dense_latency=times["dense"])


def call_session(session: nn.Module, example_inputs: Any) -> Any:
    """For `measure_latency`."""
    return session(example_inputs)


def _written(model: nn.Module, example_inputs: Any, forward: Forward | None) -> nn.Module:
    from paredown.integrations.export.onnx_operators import OnnxSpelling

    return export_copy(model, example_inputs, forward, OnnxSpelling())


def _write(
    model: nn.Module,
    example_inputs: Any,
    forward: Forward | None,
    path: Path,
    opset: int,
    options: Mapping[str, Any],
) -> None:
    from paredown.integrations.export.onnx_operators import translations

    model = model if forward is None else Called(model, forward)
    args, kwargs = arguments(example_inputs, forward)
    table = translations()
    with quiet("torch.onnx"):
        try:
            program: Any = torch.onnx.export(
                model, args, kwargs=kwargs, dynamo=True, opset_version=opset, verbose=False, optimize=True,
                custom_translation_table=table, **{key: value for key, value in options.items() if value is not None},
            )  # fmt: skip
            _pack(program.model)
            _give_own_zero_points(program.model)
            _strip(program.model)
            program.save(str(path))
        except Exception as error:  # torch.onnx lets many kinds through
            raise ExportError(f"{path}: torch.onnx cannot export the model: {reason_of(error)}") from error


def _pack(model: Any) -> None:
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
        packed = ir.Tensor(codes.astype(kind.numpy()), dtype=kind, name=name)
        value = ir.Value(name=name, type=ir.TensorType(kind), shape=source.shape, const_value=packed)
        graph.register_initializer(value)
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        graph.remove(node, safe=True)
        if not source.uses():
            del graph.initializers[source.name]


def _give_own_zero_points(model: Any) -> None:
    """Let no two stored weights share a zero point: onnxruntime cannot change their types then (`WITHOUT_OVERFLOW`)."""
    ir: Any = require("onnx_ir", "onnx")
    graph, taken = model.graph, set()
    for node in graph:
        stored = node.op_type == "DequantizeLinear" and len(node.inputs) == 3 and node.inputs[0].is_initializer()
        if not stored or not (zero := node.inputs[2]).is_initializer():
            continue
        if zero.name in taken:
            name = f"{node.inputs[0].name}_zero_point"
            copied = ir.Tensor(zero.const_value.numpy(), dtype=zero.dtype, name=name)
            own = ir.Value(name=name, type=zero.type, shape=zero.shape, const_value=copied)
            graph.register_initializer(own)
            node.replace_input_with(2, own)
        taken.add(zero.name)


def _strip(model: Any) -> None:
    """Without the exporter's notes: on small models they are longer than the weights."""
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.initializers.values(), *model.graph.inputs):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _checked(
    runtime: Any, path: Path, example_inputs: Any, compare: Callable[[Sequence[Tensor]], Agreement]
) -> tuple[_Session, Agreement]:
    """The first session that agrees: as everybody makes it; keeping float inputs that meet stored integers; without
    overflow. Raises the first ExportError where none does."""
    plain = _session(runtime, path, {})
    rounds_inputs = "MatMulNBits" in plain.operators
    kept = EXACT if rounds_inputs else {}
    failure: ExportError | None = None
    for config in ({}, *([EXACT] if rounds_inputs else []), {**kept, **WITHOUT_OVERFLOW}):
        try:
            session = _session(runtime, path, config) if config else plain
            agreement = compare(session(example_inputs))
        except ExportError as error:
            failure = failure or error
            continue
        if config or not rounds_inputs or agreement.difference <= agreement.step:
            return session, agreement
    assert failure is not None
    raise failure


class _Session(nn.Module):
    """An onnxruntime session that is called with example inputs."""

    def __init__(self, session: Any, config: Mapping[str, str], operators: Mapping[str, int]) -> None:
        super().__init__()
        self.session, self.config, self.operators = session, config, operators
        self.names = [each.name for each in session.get_inputs()]

    def forward(self, example_inputs: Any) -> tuple[Tensor, ...]:
        arrays = [tensor.detach().cpu().numpy() for tensor in inputs_of(example_inputs)]
        named = isinstance(example_inputs, Mapping) and set(self.names) <= set(example_inputs)
        if named:
            feeds = {name: example_inputs[name].detach().cpu().numpy() for name in self.names}
        elif len(arrays) == len(self.names):
            feeds = dict(zip(self.names, arrays, strict=True))
        else:
            raise ExportError(f"the exported model wants the inputs {self.names}, and {len(arrays)} tensors are given")
        return tuple(torch.as_tensor(each) for each in self.session.run(None, feeds))


def _session(runtime: Any, path: Path, config: Mapping[str, str]) -> _Session:
    with tempfile.TemporaryDirectory() as folder:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has exceptions of its own
            raise ExportError(f"{path}: onnxruntime cannot load it: {error}") from error
        return _Session(session, config, _operators(options.optimized_model_filepath))


def _operators(path: str) -> dict[str, int]:
    nodes = require("onnx", "onnx").load(path, load_external_data=False).graph.node
    return dict(Counter(node.op_type for node in nodes).most_common())
