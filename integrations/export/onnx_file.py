"""Writing a model as a file of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paredown.framework.engine.contract import Written
from paredown.framework.errors import ExportError
from paredown.framework.model.forward import Forward
from paredown.integrations.export.calling import quiet, reason_of, require
from paredown.integrations.export.copy import export_copy
from paredown.integrations.export.onnx_graph import (
    give_own_zero_points,
    merge_zeros,
    name_by_layer,
    pack,
    unpack_when_opened,
)
from paredown.integrations.export.onnx_names import leave_out_defaults, leave_out_notes, shorten_names
from paredown.integrations.export.onnx_versions import lower_, refuse_unknown
from paredown.integrations.export.tracing import traced

__all__ = ["write_onnx"]

#: what is exported; an older one is written from it
NEWEST = 21


def write_onnx(
    model: nn.Module,
    example_inputs: Any,
    path: Path,
    *,
    forward: Forward | None = None,
    dynamic: Sequence[str] = ("batch",),
    opset: int = NEWEST,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    recurrent: bool = True,
    narrow: bool = True,
    integer_bias: bool = True,
    signed: bool = False,
) -> Written:
    """Write a model; it stays as it is.

    Weights are stored as the integers of their quantizer (groups of 4 bits and less packed as INT4 or UINT4);
    batch-norms are folded into quantized layers; biases behind a quantized input are int32. Inputs that are quantized
    dynamically become DynamicQuantizeLinear and MatMulInteger, LSTMs DynamicQuantizeLSTM. Weights without quantized
    inputs are unpacked by operators that a runtime folds when it opens the file. Symmetric int8 activations reach the
    code -128, which the model leaves out. Models in half precision are written in float32.

    Args:
        opset: of the operators, 13 or newer; the version of the file's format is the one that belongs to it.
        dynamic_shapes, input_names, output_names: as of `torch.onnx.export`.
        recurrent: whether LSTMs may become an operator of onnxruntime's own.
        narrow: whether groups of narrow weights are left for the runtime to multiply by.
        integer_bias: whether biases behind quantized inputs are int32.
        signed: whether codes of symmetric inputs are int8; else they are uint8, with the zero point 128.

    Raises:
        ExportError: a package is missing, or something cannot be exported.
    """
    from paredown.integrations.export.onnx_operators import OnnxSpelling, translations

    require("onnxscript", "onnx")
    refuse_unknown(opset)
    written = export_copy(model, example_inputs, forward, OnnxSpelling(recurrent, narrow, integer_bias, signed))
    layers = [name for name, module in written.model.named_modules() if _is_layer(module)]
    trace = traced(written.model, example_inputs, forward, dynamic, dynamic_shapes)
    named = {"input_names": input_names, "output_names": output_names}
    given: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    with quiet("torch.onnx"):
        try:
            program: Any = torch.onnx.export(
                trace.program, (), dynamo=True, opset_version=max(opset, NEWEST), verbose=False, optimize=True,
                custom_translation_table=translations(), **given,
            )  # fmt: skip
            pack(program.model)
            unpack_when_opened(program.model, blocks=not narrow)
            give_own_zero_points(program.model)
            merge_zeros(program.model)
            shorten_names(program.model)
            results = name_by_layer(program.model, layers, "" if forward is None else "model.")
            leave_out_notes(program.model)
            leave_out_defaults(program.model)
            _save(program, path, opset)
        except ExportError:
            raise
        except Exception as error:  # torch.onnx lets many kinds through
            raise ExportError(f"{path}: torch.onnx cannot export the model: {reason_of(error)}") from error
    return Written(path, results, written.folded, trace.dynamic, trace.remarks)


def _save(program: Any, path: Path, opset: int) -> None:
    if opset >= NEWEST:
        program.save(str(path))
        return
    onnx, model = require("onnx", "onnx"), program.model_proto
    lower_(model, opset)
    onnx.save(model, path)


def _is_layer(module: nn.Module) -> bool:
    """Whether it has a matrix, its own or a stored one."""
    tensors = [*module._parameters.values(), *(b for k, b in module._buffers.items() if k.endswith("_codes"))]
    return any(tensor is not None and tensor.dim() > 1 for tensor in tensors)
