"""The guard: refuses a decomposition that has more parameters or runs slower than the layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from paredown.framework.calibration.streaming import Unit, run_unit
from paredown.framework.distributed.processes import mean_of_all
from paredown.framework.errors import ScheduleError
from paredown.framework.model.forward import call
from paredown.framework.model.temporary import buffers_kept, evaluating
from paredown.framework.modifier.training import Training
from paredown.modifiers.decomposition.choice.sites import Site
from paredown.modifiers.decomposition.forms.base import Form, Ranks

__all__ = ["layer_inputs", "measured_speedup", "slower_by_latency", "slower_by_rule", "too_large"]

#: more than this share of the parameters is not worth a second kernel launch
WORTHWHILE = 0.8
#: of a convolution, more than this share of the parameters
CONVOLUTION = 1 / 1.5
#: channels of a convolution, and features of a Linear, below which several layers are slower than one
CHANNELS, FEATURES = 64, 256
ROUNDS = 9


def too_large(form: Form, ranks: Ranks) -> str | None:
    """Why factors of these ranks save no parameters; None: they do."""
    dense, parts = form.dense, form.parameters(ranks)
    if parts < dense:
        return None
    return f"rank {ranks_text(ranks)} would be larger and slower: {parts:,} parameters in place of {dense:,}"


def slower_by_rule(form: Form, ranks: Ranks) -> str | None:
    """Why layers of these ranks would be slower than one, by rule of thumb; None: they would not.

    They must have at most 0.8 of its parameters; a Linear needs 256 features on both sides, a convolution 64 channels
    on both sides and 1.5 times fewer parameters. Where time cannot be saved, size alone counts.
    """
    if not form.saves_time:
        return None
    geometry, share = form.geometry, form.parameters(ranks) / form.dense
    if share > WORTHWHILE:
        worth = f"{WORTHWHILE:.0%} of the parameters"
        return f"rank {ranks_text(ranks)} would be slower: it has {share:.0%}, and at most {worth} pay"
    side = min(geometry.inputs, geometry.outputs) // geometry.groups
    if geometry.kind == "linear" and side < FEATURES:
        return f"two layers would be slower than one with a side of {side}, below {FEATURES}"
    if geometry.kind == "convolution" and side < CHANNELS:
        return f"several convolutions would be slower than one with {side} channels, below {CHANNELS}"
    if geometry.kind == "convolution" and share > CONVOLUTION:
        return f"rank {ranks_text(ranks)} would be slower: a convolution needs 1.5 times fewer parameters"
    return None


def slower_by_latency(training: Training, site: Site, ranks: Ranks, inputs: Tensor, min_speedup: float) -> str | None:
    """Why layers of these ranks do not pay, measured side by side on the layer's own input; None: they do."""
    speedup = measured_speedup(training, site, ranks, inputs)
    if speedup >= min_speedup:
        return None
    return (
        f"rank {ranks_text(ranks)} would be slower than asked: {speedup:.2f}x of the speed was measured, "
        f"min_speedup is {min_speedup:g}"
    )


def measured_speedup(training: Training, site: Site, ranks: Ranks, inputs: Tensor) -> float:
    """How many times faster the layers of these ranks are than the site's module, in the engine, in turns, on one
    input; the mean over all processes, so that they agree."""
    models = {"dense": site.module, "parts": site.skeleton(ranks)}
    measured = training.latency(models, inputs, repetitions=ROUNDS, warm_up=2)
    own = torch.tensor(measured["dense"].median / measured["parts"].median, device=inputs.device)
    return float(mean_of_all([own])[0])


def layer_inputs(training: Training, sites: Iterable[Site]) -> dict[str, Tensor]:
    """The first input of each layer when the model runs on the example inputs, or on the first batch, in eval mode.

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

    unit = Unit(tuple(site.name for site in sites), run)
    run_unit(training, unit, lambda name, _, x: seen.setdefault(name, x.detach()))
    return seen


def ranks_text(ranks: Sequence[int]) -> str:
    """Ranks as text.

    >>> ranks_text((8,)), ranks_text((16, 8))
    ('8', '16, 8')
    """
    return ", ".join(map(str, ranks))
