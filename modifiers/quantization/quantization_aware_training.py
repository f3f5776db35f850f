"""`quantization_aware_training`: train with the rounding that inference will have."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from paredown.framework.calling import evaluating
from paredown.framework.errors import ScheduleError
from paredown.framework.managed import Link
from paredown.framework.modifier import Foreseen, TargetedModifier
from paredown.framework.targets import named_modules
from paredown.framework.time import Time
from paredown.framework.training import Training
from paredown.framework.weights import refuse_not_finite
from paredown.modifiers.quantization.layers import refusals
from paredown.modifiers.quantization.quantizer import InputObserver, Quantizer, Range, add_buffers, remove_buffers
from paredown.modifiers.quantization.scheme import ActivationScheme, WeightScheme


@dataclass
class QuantizationState:
    """The ranges of the layers' inputs by layer name, and what was frozen."""

    ranges: dict[str, Range] = field(default_factory=dict)
    observers_frozen: bool = False
    batch_norm_frozen: bool = False
    forwards_checked: bool = False


class QuantizationAwareTraining(TargetedModifier):
    """Quantization-aware training (Jacob et al., 2017, arXiv:1712.05877): the forward rounds, the weights stay float.

    From ``start`` on, each target layer multiplies its fake-quantized input by its fake-quantized weight; gradients
    pass straight through the rounding (arXiv:1308.3432) and stop where an input is clipped. A weight's scale is its
    own largest magnitude at every step, so that a pruned weight stays zero and none is clipped; an input's range is
    followed by an observer until ``freeze_observers``. Parameter names do not change: scales and zero points are added
    as buffers, and after ``finalize`` the model goes on rounding with the ranges that it ended with.

    Without training (``apply``) the ranges are observed on ``data``.
    """

    example: ClassVar = {}
    claims: ClassVar = frozenset({"grid"})
    kinds: ClassVar = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    state_type: ClassVar = QuantizationState

    type: Literal["quantization_aware_training"] = "quantization_aware_training"
    weights: WeightScheme = WeightScheme()
    """Width and grid of the weights."""
    activations: ActivationScheme | None = ActivationScheme()
    """Width and grid of the layers' inputs; null leaves them as they are."""
    freeze_observers: Time | None = None
    """When the ranges of the inputs stop moving. Default: at the end."""
    freeze_batch_norm: Time | None = None
    """When batch-norm layers stop following the batches and use their running statistics. Default: never."""

    hold: ClassVar = True

    @property
    def calibrates(self) -> bool:
        return self.activations is not None

    def later_times(self) -> Mapping[str, Time]:
        times = {"freeze_observers": self.freeze_observers, "freeze_batch_norm": self.freeze_batch_norm}
        return {name: time for name, time in times.items() if time is not None}

    def unused_fields(self) -> Sequence[str]:
        return ["freeze_observers"] if self.activations is None and self.freeze_observers is not None else []

    def check(self, training: Training) -> None:
        for name, module in training.targets(self).items():
            refuse_not_finite(name, module, "it has no scale; nothing was quantized")

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        refused = refusals(training.model, training.targets(self))
        effect = f"{self.weights.bits}-bit weights per {self.weights.granularity}"
        if self.activations is not None:
            effect += f", {self.activations.bits}-bit inputs"
        return [
            Foreseen(name, refused[name], refused=True)
            if name in refused
            else Foreseen(name, effect, bits=self.weights.bits)
            for name in training.targets(self)
        ]

    def on_start(self, training: Training) -> QuantizationState:
        targets = training.targets(self)
        refused = refusals(training.model, targets)
        for name, module in targets.items():
            refuse_not_finite(name, module, "it has no scale; nothing was quantized")
        return QuantizationState({name: Range.unseen(training.device) for name in targets if name not in refused})

    def attach(self, training: Training, state: QuantizationState) -> None:
        modules = named_modules(training.model)
        for name in state.ranges:
            add_buffers(modules[name], self.weights, self.activations)
            training.manage(self, modules[name], Quantizer(self.weights, self.activations))
        if not state.observers_frozen:
            self._observe(training, state, always=False)
        if state.batch_norm_frozen:
            self._freeze_batch_norm(training)

    def on_update(self, training: Training, state: QuantizationState) -> None:
        if training.clock is None and self.activations is not None:
            self._calibrate(training, state)

    def on_step(self, training: Training, state: QuantizationState) -> None:
        if not state.forwards_checked:
            state.forwards_checked = True
            self._warn_of_silence(state)
        if not state.observers_frozen and self.freeze_observers is not None and training.reached(self.freeze_observers):
            self._freeze_observers(training, state)
        if (
            not state.batch_norm_frozen
            and self.freeze_batch_norm is not None
            and training.reached(self.freeze_batch_norm)
        ):
            state.batch_norm_frozen = True
            self._freeze_batch_norm(training)
            training.record(self, "freeze batch norm")

    def on_finalize(self, training: Training, state: QuantizationState) -> None:
        if not state.observers_frozen:
            self._freeze_observers(training, state)

    def detach(self, training: Training, state: QuantizationState) -> None:
        training.unmanage(self, only=_passing)

    def withdraw(self, training: Training, state: QuantizationState) -> None:
        super().withdraw(training, state)
        modules = named_modules(training.model)
        for name in state.ranges:
            remove_buffers(modules[name])

    def _observe(self, training: Training, state: QuantizationState, always: bool) -> None:
        modules = named_modules(training.model)
        for name, seen in state.ranges.items():
            if self.activations is not None:
                training.manage(self, modules[name], InputObserver(seen, self.activations, always))

    def _calibrate(self, training: Training, state: QuantizationState) -> None:
        training.unmanage(self, only=_observing)
        self._observe(training, state, always=True)
        batches = 0
        with evaluating(training.model):
            for batches, batch in enumerate(training.data or (), 1):  # noqa: B007
                training.call(batch)
        if not batches:
            raise ScheduleError(f"{self.name}: data gave no batch to calibrate on; a generator gives them only once")
        training.unmanage(self, only=_observing)

    def _freeze_observers(self, training: Training, state: QuantizationState) -> None:
        silent = [name for name, seen in state.ranges.items() if self.activations is not None and not seen.seen]
        if silent:
            raise ScheduleError(
                f"{self.name}: no input of {', '.join(silent)} was seen before the ranges froze, so there is no scale: "
                "their forward was never called; add them to ignore, or freeze later"
            )
        training.unmanage(self, only=_observing)
        state.observers_frozen = True
        training.record(self, "freeze observers")

    def _freeze_batch_norm(self, training: Training) -> None:
        for module in training.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                training.manage(self, module, _FrozenStatistics())

    def _warn_of_silence(self, state: QuantizationState) -> None:
        silent = [name for name, seen in state.ranges.items() if not seen.seen]
        if self.activations is not None and silent:
            warnings.warn(
                f"{self.name}: the forward of {', '.join(silent)} was not called in the first training step; a parent "
                "may read its weight without calling it",
                stacklevel=2,
            )


class _FrozenStatistics(Link):
    """A batch-norm that uses its running statistics in training mode too, and leaves them as they are."""

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if not module.training:
            return call(module, *args, **kwargs)
        return _normalised(module, *args, **kwargs)


def _normalised(module: Any, input: Tensor) -> Tensor:
    return nn.functional.batch_norm(
        input, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps
    )


def _observing(link: Link) -> bool:
    return isinstance(link, InputObserver)


def _passing(link: Link) -> bool:
    return not link.permanent
