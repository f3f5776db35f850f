"""Export with `torch.export`: `paredown.export` for torch itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from paredown.framework.engine.exporting import Exported
from paredown.framework.engine.exporting import export as export_to_engine

__all__ = ["export"]


def export(
    model: nn.Module, example_inputs: Any, path: str | Path, *, repetitions: int = 0, **options: Any
) -> Exported:
    """`paredown.export` with ``engine="torch"``: see there, and `paredown.integrations.engines.torch_eager`.

    It computes in floats, smaller and not faster; so speed is measured only where ``repetitions`` ask for it, and a
    file that is slower than the model in floating point is accepted.
    """
    options = {"allow_slower": True, **options}
    return export_to_engine(model, example_inputs, path, engine="torch", repetitions=repetitions, **options)
