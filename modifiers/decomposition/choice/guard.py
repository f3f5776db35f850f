"""The guard: refuses a decomposition that has more parameters or runs slower than the layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paredown.framework.distributed.processes import mean_of_all
from paredown.framework.modifier.training import Training
from paredown.modifiers.decomposition.choice.sites import Site
from paredown.modifiers.decomposition.forms.base import Form, Ranks

__all__ = ["measured_speedup", "slower_by_latency", "slower_by_rule", "too_large"]

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
    """How many times faster the layers of these ranks are than the site's module on one input: by the engine's table of
    layer times, or in turns where no engine is named; the mean over all processes, so that they agree."""
    dense, parts = site.module, site.skeleton(ranks)
    if training.layer_times is None:
        measured = training.latency({"dense": dense, "parts": parts}, inputs, repetitions=ROUNDS, warm_up=2)
        own = measured["dense"].median / measured["parts"].median
    else:
        times = training.layer_times
        own = times.milliseconds(dense, inputs) / times.milliseconds(parts, inputs)
    return float(mean_of_all([torch.tensor(own, device=inputs.device)])[0])


def ranks_text(ranks: Sequence[int]) -> str:
    """Ranks as text.

    >>> ranks_text((8,)), ranks_text((16, 8))
    ('8', '16, 8')
    """
    return ", ".join(map(str, ranks))
