"""`quantization_aware_training`: train with the rounding that inference will have."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import nn

from paredown.framework.calibration.frozen_statistics import freeze_statistics
from paredown.framework.distributed.shards import split_in_forward
from paredown.framework.errors import TargetError
from paredown.framework.modifier.curves import Curve, curve_value
from paredown.framework.modifier.proposals import Proposal
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, Place, WeightQuantizer
from paredown.modifiers.quantization.layers.stored import QuantizedLayers
from paredown.modifiers.quantization.numbers.observers import Observation
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme, Bits, WeightScheme
from paredown.modifiers.quantization.quantization_modifier import QuantizationModifier


class QuantizationAwareTraining(QuantizationModifier):
    """Quantization-aware training (Jacob et al., 2017, arXiv:1712.05877): the forward rounds, the weights stay float.

    From ``start`` on, each target layer multiplies its fake-quantized input by its fake-quantized weight; gradients
    pass straight through the rounding (arXiv:1308.3432) and stop where an input is clipped. A weight's scale is its
    own largest magnitude at every step, so that a pruned weight stays zero and none is clipped; an input's range is
    followed by an observer until ``freeze_observers``. Parameter names do not change: scales and zero points are added
    as buffers, and after ``finalize`` the model goes on rounding with the ranges that it ended with.

    With ``example_inputs`` the results of convolutions that go into additions or average pooling are quantized too,
    so that an integer engine can fuse the convolution. Batch-norm needs no folding in training: with a scale for each
    channel, the codes of a weight are the same before and after folding. (With ``granularity: tensor`` they are not:
    prefer ``channel``.) Without training (``apply``) the ranges are observed on ``data``.
    """

    example: ClassVar = {}

    proposals: ClassVar = (
        Proposal(
            "grid", "weights and inputs in 8 bits, trained so", healed=0.2,
            times={"freeze_observers": 0.5, "freeze_batch_norm": 0.5},
        ),
    )  # fmt: skip

    type: Literal["quantization_aware_training"] = "quantization_aware_training"
    every: Time | None = None
    """Distance between updates: of the width on its way down, and of ranges that are searched for. Default: a fiftieth
    of the window, at least one step."""
    activations: ActivationScheme | None = ActivationScheme()
    """Width and grid of the layers' inputs; null leaves them as they are."""
    initial_bits: Bits | None = None
    """Width of the weights at the start of the window, from which it moves to their ``bits``. Default: no move."""
    curve: Curve = "linear"
    """How the width moves over the window."""
    warm_up: Time | None = None
    """Until when inputs are observed but not rounded yet. Default: none."""
    freeze_observers: Time | None = None
    """When the ranges of the inputs stop moving. Default: at the end."""
    freeze_batch_norm: Time | None = None
    """When batch-norm layers stop following the batches and use their running statistics. Default: never."""
    quantize_in_eval: bool = True
    """Round in eval mode too; false evaluates the float model while the window is open."""

    @property
    def update_interval(self) -> Time | None:
        return self.every

    @property
    def calibrates(self) -> bool:
        return self.activations is not None

    def later_times(self) -> Mapping[str, Time]:
        times = {name: getattr(self, name) for name in ("warm_up", "freeze_observers", "freeze_batch_norm")}
        return {name: time for name, time in times.items() if time is not None}

    @property
    def works_on_parts(self) -> bool:
        return True

    def check(self, training: Training) -> None:
        split = {id(parameter) for parameter in split_in_forward(training.model)}
        if any(id(parameter) in split for parameter in self.claimed(training)):
            raise TargetError(
                f"{self.name} ({self.type}) needs weights that are whole while the model runs, and tensor parallelism "
                "keeps these split: use fully_shard or DistributedDataParallel, or add these layers to ignore"
            )
        super().check(training)

    def unused_fields(self) -> Sequence[str]:
        idle = ["freeze_observers", "warm_up"] if self.activations is None else []
        idle += ["curve"] if self.initial_bits is None else []
        idle += ["initial_bits"] if self.weights is None else []
        return [name for name in idle if name in self.model_fields_set]

    def on_start(self, training: Training) -> QuantizedLayers:
        state = super().on_start(training)
        state.passing = training.clock is not None and self.warm_up is not None and not training.reached(self.warm_up)
        self._set_widths(training, state)
        self._search_grids(training, state)
        return state

    def attach(self, training: Training, state: QuantizedLayers) -> None:
        super().attach(training, state)
        if state.batch_norm_frozen:
            freeze_statistics(training)

    def on_update(self, training: Training, state: QuantizedLayers) -> None:
        if self._set_widths(training, state):
            self._search_grids(training, state)
            self.attach_weights(training, state)
        elif self._search_grids(training, state):
            self.write_grids(training, state)
        if training.clock is None and self.activations is not None:
            self.calibrate(training, state)
        elif not state.frozen:
            self.write_ranges(training, state)

    def on_step(self, training: Training, state: QuantizedLayers) -> None:
        if not state.checked:
            state.checked = True
            self._warn_of_silence(training, state)
        if state.passing and self.warm_up is not None and training.reached(self.warm_up):
            state.passing = False
            self.attach_activations(training, state)
            training.record("warm")
        if not state.frozen and self.freeze_observers is not None and training.reached(self.freeze_observers):
            self._freeze_ranges(training, state)
        if not state.batch_norm_frozen and self.freeze_batch_norm and training.reached(self.freeze_batch_norm):
            state.batch_norm_frozen = True
            freeze_statistics(training)
            training.record("freeze batch norm")

    def on_finalize(self, training: Training, state: QuantizedLayers) -> None:
        state.passing = False
        if not state.frozen:
            self._freeze_ranges(training, state)
        self.fix_grids(training, state)
        self.attach_weights(training, state)

    def weight_quantizer(self, module: nn.Module, scheme: WeightScheme) -> WeightQuantizer:
        quantizer = super().weight_quantizer(module, scheme)
        quantizer.in_eval = self.quantize_in_eval
        return quantizer

    def activation_quantizer(
        self, scheme: ActivationScheme, place: Place, observation: Observation | None, always: bool, passing: bool
    ) -> ActivationQuantizer:
        quantizer = super().activation_quantizer(scheme, place, observation, always, passing)
        quantizer.in_eval = self.quantize_in_eval
        return quantizer

    def _set_widths(self, training: Training, state: QuantizedLayers) -> bool:
        """Move the weights' widths along the curve; whether one changed."""
        if self.initial_bits is None:
            return False
        before = dict(state.bits)
        for name, (_, schemes) in self.layers(training).items():
            if name in state.layers and schemes.weights is not None and schemes.weights.format == "int":
                width = curve_value(self.curve, training.progress, self.initial_bits, schemes.weights.width)
                state.bits[name] = math.floor(width + 0.5)
        if state.bits != before:
            training.record("update", bits=sum(state.bits.values()) / len(state.bits))
        return state.bits != before

    def _search_grids(self, training: Training, state: QuantizedLayers) -> bool:
        """Find the grids that do not simply follow the weight; whether there are any."""
        schemes = self.schemes_of(training, state)
        searched = [name for name, each in schemes.items() if each.weights and each.weights.observer != "minmax"]
        self.fix_grids(training, state, searched)
        return bool(searched)

    def _freeze_ranges(self, training: Training, state: QuantizedLayers) -> None:
        self.freeze(training, state)
        training.record("freeze observers")

    def _warn_of_silence(self, training: Training, state: QuantizedLayers) -> None:
        silent = [] if training.eval_mode_steps else state.unseen()
        if silent:
            warnings.warn(
                f"{self.name}: the forward of {', '.join(silent)} was not called in the first training step; a parent "
                "may read its weight without calling it",
                stacklevel=2,
            )
