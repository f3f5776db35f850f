"""What goes into the layers of a model."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from paredown.framework.calibration.streaming import Unit, run_unit
from paredown.framework.errors import ScheduleError
from paredown.framework.model.forward import call
from paredown.framework.model.temporary import buffers_kept, evaluating
from paredown.framework.modifier.training import Training

__all__ = ["layer_inputs"]


def layer_inputs(training: Training, names: Iterable[str]) -> dict[str, Tensor]:
    """The first input of each layer when the model runs on the example inputs, or on the first batch, in eval mode.

    Args:
        names: of the layers; those that are not reached are missing from what is returned.

    Raises:
        ScheduleError: there is nothing to run it on.
    """
    example = training.data.example()
    if example is None:
        raise ScheduleError(f"{training.name} measures latency: give example_inputs=(x,), or data=loader")
    seen: dict[str, Tensor] = {}

    def run() -> None:
        with evaluating(training.model), buffers_kept(training.model):
            call(training.model, *example)

    run_unit(training, Unit(tuple(names), run), lambda name, _, x: seen.setdefault(name, x.detach()))
    return seen
