"""How long models take in an engine: written to files for a moment, opened, and run in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paredown.framework.engine.contract import Engine, Session
from paredown.framework.errors import ExportError
from paredown.framework.measure.latency import Latency, measure_latency
from paredown.framework.model.forward import Forward

__all__ = ["latencies", "measure_in"]


def measure_in(
    engine: Engine | None,
    models: Mapping[str, nn.Module],
    example_inputs: Any,
    forward: Forward | None = None,
    *,
    repetitions: int = 30,
    warm_up: int = 3,
) -> dict[str, Latency]:
    """CPU time of one forward of each model, in turns: in an engine, or in torch where it is None.

    Args: see `paredown.framework.measure.latency.measure_latency`.

    Raises:
        ExportError: the engine is not installed, cannot write a model, or its time is not to be measured here.
    """
    if engine is None:
        return measure_latency(models, example_inputs, forward, repetitions=repetitions, warm_up=warm_up)
    engine.require()
    if engine.untimed is not None:
        raise ExportError(f"{engine.name}: {engine.untimed}")
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for number, (name, model) in enumerate(models.items()):
            path = Path(folder) / f"{number}{engine.suffix}"
            engine.write(model, example_inputs, path, forward=forward, dynamic=())
            sessions[name] = engine.open(path)
        found = latencies(sessions, example_inputs, repetitions, warm_up)
        del sessions
    return found


def latencies(
    sessions: Mapping[str, Session], example_inputs: Any, repetitions: int, warm_up: int = 3
) -> dict[str, Latency]:
    """CPU time of one run in each session, in turns."""
    models = {name: _Opened(session) for name, session in sessions.items()}
    return measure_latency(models, example_inputs, _run, repetitions=repetitions, warm_up=warm_up)


class _Opened(nn.Module):
    """A session as what can be timed."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, example_inputs: Any) -> tuple[Tensor, ...]:
        return self.session.run(example_inputs)


def _run(model: nn.Module, example_inputs: Any) -> Any:
    return model(example_inputs)
