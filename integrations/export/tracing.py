"""A written copy of a model as a program of `torch.export`, with a batch of any size where that can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from paredown.framework.errors import ExportError
from paredown.framework.model.forward import Forward
from paredown.integrations.export.calling import Called, arguments, inputs_of, quiet, reason_of, widened

__all__ = ["Traced", "traced"]


@dataclass(frozen=True)
class Traced:
    """A traced model.

    Attributes:
        program: a `torch.export.ExportedProgram`.
        dynamic: whether the batch may be of any size.
        remarks: what a user must know of it.
    """

    program: Any
    dynamic: bool
    remarks: tuple[str, ...] = ()


def traced(
    model: nn.Module,
    example_inputs: Any,
    forward: Forward | None,
    dynamic: Sequence[str],
    shapes: Any = None,
    largest: int | None = None,
) -> Traced:
    """Trace a written copy.

    Args:
        dynamic: ``("batch",)``: the first dimension of the inputs may be any, as far as the model allows it (else a
            remark says why not); ``()``: all shapes are fixed.
        shapes: ``dynamic_shapes`` of `torch.export.export`, in its place.
        largest: the largest batch that must be possible; None: any.

    Raises:
        ExportError: the model cannot be traced, or ``dynamic`` names something else.
    """
    unknown = [each for each in dynamic if each != "batch"]
    if unknown:
        raise ExportError(f"dynamic={list(dynamic)}: what may be of any size is the batch alone, not {unknown[0]!r}")
    given, size = widened(example_inputs), _batch(example_inputs)
    if shapes is not None or not dynamic or size is None:
        return Traced(_program(model, given, forward, shapes), shapes is not None)
    several = tree_map(lambda leaf: _doubled(leaf, size), given)
    try:
        return Traced(_program(model, several, forward, batch=_batch(several), largest=largest), True)
    except ExportError as error:
        reason = str(error)
    remark = f"the batch is fixed at {size}: {reason}"
    return Traced(_program(model, given, forward), False, (remark,))


def _program(
    model: nn.Module,
    example_inputs: Any,
    forward: Forward | None,
    shapes: Any = None,
    batch: int | None = None,
    largest: int | None = None,
) -> Any:
    called = model if forward is None else Called(model, forward)
    args, kwargs = arguments(example_inputs, forward)
    if batch is not None:
        collection: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
        size = torch.export.Dim.DYNAMIC if largest is None else torch.export.Dim.DYNAMIC(max=max(largest, batch))
        for tensor in inputs_of(example_inputs):
            if tensor.dim() and tensor.shape[0] == batch:
                collection[tensor] = {0: size}
        shapes = collection
    with quiet("torch"):
        try:
            return torch.export.export(called, args, kwargs, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # torch.export lets the error of any operator through
            raise ExportError(f"torch.export cannot trace the model: {reason_of(error)}") from error


def _batch(example_inputs: Any) -> int | None:
    """The first dimension of the first input that has one."""
    return next((int(tensor.shape[0]) for tensor in inputs_of(example_inputs) if tensor.dim()), None)


def _doubled(leaf: Any, size: int) -> Any:
    """A tensor of its own, which `torch.export` marks as dynamic; of a single example twice that: a 1 is taken for a
    constant."""
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.cat([leaf, leaf]) if size == 1 and leaf.dim() and leaf.shape[0] == 1 else leaf.clone()
