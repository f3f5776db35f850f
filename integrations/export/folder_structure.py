"""Whether the configuration of a `transformers` model, from which a folder is read, describes its layers."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from paredown.framework.errors import ExportError
from paredown.framework.model.links import base_class
from paredown.integrations.export.calling import quiet

__all__ = ["refuse_fused_experts", "refuse_other_layers"]

INSTEAD = (
    "nothing was written; paredown.save with paredown.load, or an ONNX file (paredown.integrations.onnx), take the "
    "model as it is"
)
Shape = tuple[int, ...]


def refuse_other_layers(model: Any) -> None:
    """Refuse a model whose layers are not those that its configuration gives.

    Raises:
        ExportError: names the layers with their shapes, and what can be written instead.
    """
    meant = _shapes_by_configuration(model)
    if meant is None:
        return
    own = _shapes(model)
    replaced = sorted({_layer(name) for name in meant.keys() - own.keys()})
    if replaced:
        raise ExportError(
            f"{', '.join(replaced)} consist of other layers than a {base_class(model).__name__} has (decomposed, or "
            f"replaced), which its configuration cannot say; {INSTEAD}"
        )
    lines = list(_differences(own, meant))
    if lines:
        raise ExportError(
            f"the configuration gives all blocks one size, and these differ from it: {'; '.join(lines)}. Cut all alike "
            f"(`scope: local`), or {INSTEAD}"
        )


def refuse_fused_experts(model: Any) -> None:
    """Refuse a model with parameters that transformers puts together as it reads a folder, which it does for plain
    weights only.

    Raises:
        ExportError: names the modules.
    """
    patterns = [pattern for each in _conversions(model) for pattern in each.target_patterns]
    fused = [name for name in _shapes(model) if any(re.search(pattern, name) for pattern in patterns)]
    if fused:
        raise ExportError(
            f"{', '.join(sorted({_layer(name) for name in fused}))}: the weights of all experts are one tensor, which "
            f"transformers does not read beside quantized layers; {INSTEAD}"
        )


def _shapes(model: nn.Module) -> dict[str, Shape]:
    return {name: tuple(each.shape) for name, each in model.named_parameters(remove_duplicate=False)}


def _shapes_by_configuration(model: Any) -> dict[str, Shape] | None:
    """Those of a new model of the configuration; None where none can be made without memory."""
    try:
        with torch.device("meta"), quiet("transformers"):
            return _shapes(base_class(model)(copy.deepcopy(model.config)))
    except Exception:  # a user's model may raise anything
        return None


def _differences(own: Mapping[str, Shape], meant: Mapping[str, Shape]) -> Iterator[str]:
    """A line for all parameters whose names are the same but for the number of their block."""
    shapes: dict[str, dict[Shape, list[str]]] = {}
    for name in own:
        if name in meant and own[name] != meant[name]:
            shapes.setdefault(re.sub(r"\.\d+\.", ".*.", name), {}).setdefault(own[name], []).append(name)
    for pattern, found in shapes.items():
        first = next(iter(found.values()))[0]
        different = ", ".join(f"{shape} in {', '.join(map(_layer, names))}" for shape, names in found.items())
        yield f"{pattern} is {meant[first]} by the configuration and {different}"


def _conversions(model: Any) -> list[Any]:
    """How transformers puts parameters together from those of a file, as far as its version does so."""
    try:
        mapping = importlib.import_module("transformers.conversion_mapping").get_model_conversion_mapping
        return [each for each in mapping(model) if type(each).__name__ == "WeightConverter"]
    except (ImportError, AttributeError):
        return []


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
