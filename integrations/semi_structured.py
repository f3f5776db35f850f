"""2:4 weights in the form that torch's sparse kernels take (`torch.sparse.to_sparse_semi_structured`)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.sparse import (
    SparseSemiStructuredTensor,
    SparseSemiStructuredTensorCUSPARSELT,
    SparseSemiStructuredTensorCUTLASS,
    to_sparse_semi_structured,
)

from paredown.framework.errors import ExportError
from paredown.framework.model.links import links_of
from paredown.framework.model.targets import match, unwrap

__all__ = ["check", "convert"]


def convert(model: nn.Module, targets: Sequence[str] = ("Linear",), ignore: Sequence[str] = ()) -> list[str]:
    """Replace the weights of Linear layers by torch's semi-structured tensors, in place: half the memory, and faster.

    For inference on an NVIDIA GPU of compute capability 8.0 or newer, by the kernels of cuSPARSELt, or of CUTLASS where
    torch says so (``SparseSemiStructuredTensor._FORCE_CUTLASS``). A checkpoint is saved before, not after. Nothing is
    changed when an error is raised.

    Args:
        model: with weights of 2:4 zeros, on the GPU, in half precision.
        targets, ignore: as in a recipe.

    Returns:
        the names of the converted layers.

    Raises:
        ExportError: a layer's weight is not of 2:4 zeros along its inputs, or of a type, shape or device that the
            kernels do not take; every such layer is named.
        TargetError: a pattern matches nothing.
    """
    layers = check(model, targets, ignore)
    elsewhere = [name for name, layer in layers.items() if not layer.weight.is_cuda]
    if elsewhere:
        raise ExportError(f"{', '.join(elsewhere)}: the kernels are those of a GPU: move the model there first")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor is in prototype stage")
        sparse = {name: to_sparse_semi_structured(layer.weight.detach()) for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.weight = nn.Parameter(sparse[name], requires_grad=False)
    return list(layers)


def check(
    model: nn.Module, targets: Sequence[str] = ("Linear",), ignore: Sequence[str] = ()
) -> Mapping[str, nn.Linear]:
    """The layers that `convert` would convert, by name, on whatever device they are.

    Raises:
        ExportError: as `convert`, the device aside.
        TargetError: a pattern matches nothing.
    """
    found: dict[str, Any] = match(unwrap(model), targets, ignore, (nn.Linear,)).modules
    faults = [f"{name or 'the model'}: {fault}" for name, layer in found.items() if (fault := _fault(layer))]
    if faults:
        raise ExportError("; ".join(faults))
    return found


def _fault(layer: nn.Module) -> str | None:
    """Why a layer cannot be converted."""
    weight = layer._parameters.get("weight")
    if not isinstance(layer, nn.Linear):
        return f"a {type(layer).__name__} is no Linear: only its products are sparse in torch"
    if weight is None or isinstance(weight, SparseSemiStructuredTensor):
        return "its weight is computed, or converted already"
    if any(link.stored_codes(layer) for link in links_of(layer) if link.permanent):
        return "its weight is quantized, and the kernels would read the numbers that it was rounded from"
    return _misfit(weight) or _not_two_of_four(weight)


def _misfit(weight: Tensor) -> str | None:
    """What the kernels do not take: those of the backend that torch will choose."""
    cutlass = SparseSemiStructuredTensor._FORCE_CUTLASS
    backend: Any = SparseSemiStructuredTensorCUTLASS if cutlass else SparseSemiStructuredTensorCUSPARSELT
    wanted = backend._DTYPE_SHAPE_CONSTRAINTS.get(weight.dtype)
    if wanted is None or not weight.dtype.is_floating_point:
        kinds = [
            str(kind).removeprefix("torch.") for kind in backend._DTYPE_SHAPE_CONSTRAINTS if kind.is_floating_point
        ]
        return f"its weight is {weight.dtype}, and the kernels ({backend.BACKEND}) take {', '.join(sorted(kinds))}"
    rows, columns = wanted.sparse_min_rows, wanted.sparse_min_cols
    if weight.shape[0] % rows or weight.shape[1] % columns or not weight.numel():
        return (
            f"its {weight.shape[0]} outputs and {weight.shape[1]} inputs are no multiples of {rows} and {columns}, "
            f"which the kernels ({backend.BACKEND}) want for {weight.dtype}"
        )
    return None


def _not_two_of_four(weight: Tensor) -> str | None:
    """Whether a group has too few zeros. float32 kernels (CUTLASS) want one of two."""
    kept, of = (1, 2) if weight.dtype == torch.float32 else (2, 4)
    full = (weight.detach() != 0).reshape(-1, of).sum(1) > kept
    if not bool(full.any()):
        return None
    share = int(full.sum()) / full.numel()
    return f"{share:.2%} of the groups of {of} inputs have more than {kept} weights that are not zero"
