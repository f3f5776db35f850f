"""`learned_step_size`: the scales are trained with the weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from paredown.framework.distributed.processes import mean_of_all
from paredown.framework.errors import ScheduleError
from paredown.framework.model.kinds import CONVOLUTIONS, LINEAR
from paredown.framework.model.optimizers import trained_by
from paredown.framework.model.targets import named_modules
from paredown.framework.model.weights import WeightLayout
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.layers.kinds import weight_names
from paredown.modifiers.quantization.layers.learned_quantizers import (
    LearnedActivationQuantizer,
    LearnedWeightQuantizer,
    first_weight_scale,
)
from paredown.modifiers.quantization.layers.stored import Grid, QuantizedLayers, put, put_weight_quantizer
from paredown.modifiers.quantization.numbers.scales import stored_scale
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme, WeightScheme
from paredown.modifiers.quantization.quantization_modifier import QuantizationModifier, why_unseen

__all__ = ["LearnedStepSize"]


@dataclass
class LearnedLayers(QuantizedLayers):
    """``learned``: scales, and zero points as real numbers, by "layer.parameter" or by the place, "layer:input"."""

    learned: dict[str, Grid] = field(default_factory=dict)


class LearnedStepSize(QuantizationModifier):
    """Learned step size quantization (LSQ, Esser et al., 2019, arXiv:1902.08153): the loss trains the scales too.

    The gradient of a scale (Eq. 3) is that of the rounding with straight-through, divided by sqrt(N Q) (section 2.2),
    N values sharing the scale and Q the largest integer. Affine inputs learn their zero point too (LSQ+, Bhalgat et
    al., 2020, arXiv:2004.09576); it is rounded in the forward, so that zero stays on the grid. Weights start from
    2 mean|w| / sqrt(Q), symmetric inputs from the same of the first batch, affine ones from its extremes.

    The scales are no parameters of the model: ``state_dict()`` gains scales and zero points, as buffers, and nothing
    else. They train in the param group of their layer's weight, with its learning rate and weight decay (no step more
    than halves or doubles a scale), and leave the optimizer in ``finalize``. Clipping gradients by
    ``model.parameters()`` passes them by. It pays at 4 bits and below.
    Processes of a distributed run average their scales after each step.
    """

    example: ClassVar = {"weights": {"bits": 4}}
    kinds: ClassVar = (*LINEAR, *CONVOLUTIONS)
    state_type: ClassVar = LearnedLayers
    needs_training: ClassVar = True
    trains_scales: ClassVar = True

    type: Literal["learned_step_size"] = "learned_step_size"
    weights: WeightScheme = WeightScheme(bits=4, narrow=False)
    """Width and grid of the weights: symmetric integers."""
    activations: ActivationScheme | None = ActivationScheme()
    """Width and grid of the layers' inputs: integers; null leaves them as they are."""
    freeze_scales: Time | None = None
    """When the scales stop learning. Default: at the end."""

    @model_validator(mode="after")
    def _learnable(self) -> LearnedStepSize:
        schemes = [self.weights, *([] if self.activations is None else [self.activations])]
        if any(scheme.format != "int" for scheme in schemes) or not self.weights.symmetric:
            raise ValueError("learned_step_size learns the scales of integers, and of weights symmetric ones")
        return self

    @property
    def permanent(self) -> bool:
        return True

    def later_times(self) -> Mapping[str, Time]:
        return {} if self.freeze_scales is None else {"freeze_scales": self.freeze_scales}

    def refusal(self, training: Training, name: str, module: nn.Module) -> str | None:
        trained = trained_by(training.optimizers)
        own = [id(module._parameters[key]) for key in weight_names(module)]
        idle = bool(training.optimizers) and not trained.issuperset(own)
        return super().refusal(training, name, module) or ("no optimizer trains its weight" if idle else None)

    def on_start(self, training: Training) -> LearnedLayers:
        state = LearnedLayers(**vars(super().on_start(training)))
        modules = named_modules(training.model)
        for name, schemes in self.schemes_of(training, state).items():
            module = modules[name]
            for key in weight_names(module):
                weight: Any = module._parameters[key]
                assert schemes.weights is not None
                scale = first_weight_scale(WeightLayout.of(module).rows(weight), schemes.weights)
                state.learned[f"{name}.{key}"] = Grid(scale, torch.zeros_like(scale))
        for name, place, _ in state.places():
            unknown = torch.zeros((), device=training.device)
            state.learned[f"{name}:{place}"] = Grid(unknown, unknown.clone())
        return state

    def attach(self, training: Training, state: QuantizedLayers) -> None:
        super().attach(training, state)
        self._write(training, state)
        for tensor, beside in self._trained(training, state):
            training.surgery.groups.add(tensor.requires_grad_(True), beside)

    def attach_weights(self, training: Training, state: QuantizedLayers, names: Collection[str] | None = None) -> None:
        learned = _learned(state)
        if not learned:
            super().attach_weights(training, state, names)
            return
        modules = named_modules(training.model)
        for name, schemes in self.schemes_of(training, state).items():
            assert schemes.weights is not None
            module = modules[name]
            own = {key: learned[f"{name}.{key}"] for key in weight_names(module)}
            quantizer = LearnedWeightQuantizer(schemes.weights, tuple(own), WeightLayout.of(module), own)
            grids = {f"{name}.{key}": Grid(grid.scale.detach(), grid.zero_point.detach()) for key, grid in own.items()}
            put_weight_quantizer(training, name, quantizer, grids)

    def attach_activations(self, training: Training, state: QuantizedLayers, always: bool = False) -> None:
        learned = _learned(state)
        if not learned:
            super().attach_activations(training, state, always)
            return
        modules, schemes = named_modules(training.model), self.schemes_of(training, state)
        for name, place, _ in state.places():
            scheme = self.scheme_at(schemes, name, place)
            quantizer = LearnedActivationQuantizer(scheme, place, learned[f"{name}:{place}"])
            if put(training, modules[name], quantizer):
                quantizer.add_buffers(modules[name])

    def on_step(self, training: Training, state: QuantizedLayers) -> None:
        learned = _learned(state)
        if not learned:
            return
        with torch.no_grad():
            tensors = [tensor for grid in learned.values() for tensor in (grid.scale, grid.zero_point)]
            for tensor, mean in zip(tensors, mean_of_all(tensors), strict=True):
                tensor.copy_(mean)
        self._bound(training, state)
        self._write(training, state)
        if self.freeze_scales is not None and training.reached(self.freeze_scales):
            self._fix(training, state)
            training.record("freeze scales")

    def on_end(self, training: Training, state: QuantizedLayers) -> None:
        if _learned(state):
            self._fix(training, state)

    def on_finalize(self, training: Training, state: QuantizedLayers) -> None:
        self.on_end(training, state)

    def release(self, training: Training, state: QuantizedLayers) -> None:
        self._leave_optimizers(training, state)
        super().release(training, state)

    def _trained(self, training: Training, state: QuantizedLayers) -> Iterator[tuple[Tensor, nn.Parameter]]:
        """The learned tensors that have a gradient, each with a parameter in whose group it trains."""
        if not training.optimizers:
            return
        modules = named_modules(training.model)
        first = training.optimizers[0].param_groups[0]["params"][0]
        for key, grid in _learned(state).items():
            place, _, parameter = key.rpartition(":" if ":" in key else ".")
            beside = modules[place]._parameters.get("weight" if ":" in key else parameter)
            yield grid.scale, first if beside is None else beside
            if ":" in key and not self._is_symmetric(training, state, place):
                yield grid.zero_point, first if beside is None else beside

    def _is_symmetric(self, training: Training, state: QuantizedLayers, name: str) -> bool:
        schemes = self.schemes_of(training, state).get(name)
        scheme = self.activations if schemes is None or schemes.activations is None else schemes.activations
        return scheme is None or scheme.symmetric

    def _bound(self, training: Training, state: QuantizedLayers) -> None:
        """No step more than halves or doubles a scale (Adam would, where scales are smaller than its step)."""
        modules = named_modules(training.model)
        with torch.no_grad():
            for key, grid in _learned(state).items():
                owner, _, part = key.rpartition(":" if ":" in key else ".")
                before = modules[owner].get_buffer(f"{part}_scale")
                bounded = torch.clamp(grid.scale, before / 2, before * 2)
                grid.scale.copy_(torch.where(before > 0, bounded, grid.scale))

    def _write(self, training: Training, state: QuantizedLayers) -> None:
        """Bring what is learned into the buffers, the zero points rounded: copies of the model read them there."""
        modules = named_modules(training.model)
        for key, grid in _learned(state).items():
            owner, _, part = key.rpartition(":" if ":" in key else ".")
            modules[owner].get_buffer(f"{part}_scale").copy_(grid.scale.detach())
            if ":" in key:
                modules[owner].get_buffer(f"{part}_zero_point").copy_(grid.zero_point.detach().round())

    def _fix(self, training: Training, state: QuantizedLayers) -> None:
        """Make fixed grids of what was learned.

        Raises:
            ScheduleError: a layer whose forward was never called has no scale.
        """
        learned = _learned(state)
        unset = [key.rpartition(":")[0] for key, grid in learned.items() if not bool((grid.scale > 0).all())]
        if unset and training.optimizers:
            raise ScheduleError(
                f"{self.name}: no input of {', '.join(unset)} was seen, so there is no scale: {why_unseen(training)}"
            )
        self._leave_optimizers(training, state)
        schemes = self.schemes_of(training, state)
        for key, grid in learned.items():
            scheme = None if ":" in key else schemes[key.rpartition(".")[0]].weights
            scale = grid.scale.detach().clone()
            scale = scale if scheme is None else stored_scale(scale, scheme)
            state.grids[key] = Grid(scale, grid.zero_point.detach().round().to(torch.int32))
        learned.clear()
        state.frozen = True
        self.attach_weights(training, state)
        self.attach_activations(training, state)

    def _leave_optimizers(self, training: Training, state: QuantizedLayers) -> None:
        for grid in _learned(state).values():
            for tensor in (grid.scale, grid.zero_point):
                training.surgery.groups.remove({id(tensor)})
                tensor.requires_grad_(False)


def _learned(state: QuantizedLayers) -> dict[str, Grid]:
    assert isinstance(state, LearnedLayers)
    return state.learned
