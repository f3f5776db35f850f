"""Export to ONNX: `paredown.export` for onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from paredown.framework.engine.exporting import Exported
from paredown.framework.engine.exporting import export as export_to_engine

__all__ = ["export"]


def export(model: nn.Module, example_inputs: Any, path: str | Path, **options: Any) -> Exported:
    """`paredown.export` with ``engine="onnxruntime"``: see there, and `paredown.integrations.engines.onnxruntime`."""
    return export_to_engine(model, example_inputs, path, engine="onnxruntime", **options)
