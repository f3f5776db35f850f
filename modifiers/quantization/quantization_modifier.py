"""The base of all quantization modifiers: schemes, refusals, plan, links, and ranges of activations."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

from pydantic import Field, model_validator
from torch import nn

from paredown.framework.engine.profile import Way
from paredown.framework.errors import ScheduleError, TargetError
from paredown.framework.model.fused_layers import restore_fast_path, use_slow_path
from paredown.framework.model.graph.results import Result
from paredown.framework.model.links import Link, links_of, remove_links
from paredown.framework.model.read_layers import weight_is_read
from paredown.framework.model.targets import named_modules
from paredown.framework.model.weights import WeightLayout, refuse_not_finite
from paredown.framework.modifier.base import Foreseen, Modifier, TargetedModifier
from paredown.framework.modifier.fields import Pattern, Trial
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.automatic_widths import WidthBudget, choose_widths, width_trials
from paredown.modifiers.quantization.layers.attention import AttentionOutputs
from paredown.modifiers.quantization.layers.effects import bits_of, effects_of, named_result
from paredown.modifiers.quantization.layers.folded_batch_norms import folded_batch_norms
from paredown.modifiers.quantization.layers.kinds import (
    LAYERS,
    ONLY_READ,
    parent_attention,
    reason_not_to_be_called,
    reason_to_refuse,
    takes_indices,
    untreated,
    weight_names,
)
from paredown.modifiers.quantization.layers.quantizers import (
    ActivationQuantizer,
    Place,
    Quantizer,
    WeightQuantizer,
    weight_quantizer,
    write_grid,
)
from paredown.modifiers.quantization.layers.recurrent import HiddenStates
from paredown.modifiers.quantization.layers.result_quantizers import place_of_call
from paredown.modifiers.quantization.layers.rounded_results import rounded_results
from paredown.modifiers.quantization.layers.schemes import (
    LayerSchemes,
    Override,
    for_engine,
    merged,
    misfit_of,
    overrides_by_layer,
)
from paredown.modifiers.quantization.layers.stored import (
    Grid,
    QuantizedLayers,
    put,
    put_weight_quantizer,
    remove_buffers,
)
from paredown.modifiers.quantization.numbers.observers import Observation
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme, WeightScheme, same_grid

__all__ = ["QuantizationModifier", "why_unseen"]

#: why a layer is left alone under a budget of latency
IN_FLOATS = "the budget allows it to stay in floating point, where it does least damage"


class QuantizationModifier(TargetedModifier):
    """Base of the modifiers that put quantizers around layers."""

    claims: ClassVar = frozenset({"grid"})
    follows: ClassVar = frozenset({"zeros", "structure"})
    after: ClassVar = frozenset({"values"})
    kinds: ClassVar[tuple[type[nn.Module], ...]] = LAYERS
    state_type: ClassVar = QuantizedLayers
    #: activations find their scale at run time
    dynamic: ClassVar[bool] = False
    #: an optimizer moves its scales
    trains_scales: ClassVar[bool] = False
    #: it chooses grids, or the weights on them, with more care than the nearest number
    chooses: ClassVar[bool] = False

    weights: WeightScheme | None = WeightScheme()
    """Width and grid of the weights; null leaves them as they are."""
    activations: ActivationScheme | None = None
    """Width and grid of the layers' inputs; null leaves them as they are."""
    overrides: dict[Pattern, Override] = Field(default_factory=dict)
    """What is different for some layers, by pattern (as in ``targets``): ``{head: {weights: {bits: 8}}}``. Where two
    mean a layer, the later one wins."""

    budget: WidthBudget | None = None
    """For weights of ``bits: auto``: what they may cost together, such as ``{bytes: 0.15}`` of their own size."""

    @property
    def holds(self) -> bool:
        return True

    @property
    def rewrites(self) -> bool:
        """Whether it writes weights that lie on their grid: whoever rounds them anew does so for the second time."""
        return False

    @property
    def calibration_samples(self) -> int | None:
        """How much of ``data`` is used; None: all."""
        return None

    @model_validator(mode="after")
    def _consistent(self) -> QuantizationModifier:
        base = LayerSchemes(self.weights, self.activations)
        if base == LayerSchemes(None, None):
            raise ValueError("weights and activations are both null: there is nothing to quantize")
        every = [base]
        for pattern, override in self.overrides.items():
            try:
                every.append(merged(base, [override]))
            except ValueError as error:
                raise ValueError(f"overrides: {pattern}: {error}") from None
        if not self.dynamic and any(each.activations and each.activations.granularity == "token" for each in every):
            raise ValueError("activations of granularity: token find their scale at run time: use dynamic_quantization")
        free = any(each.weights is not None and each.weights.bits == "auto" for each in every)
        if free and self.budget is None:
            raise ValueError("bits: auto needs a budget, such as budget: {bytes: 0.15}")
        if self.budget is not None and not free:
            raise ValueError("budget is for weights of bits: auto")
        return self

    # -- what is quantized ---------------------------------------------------------------------------------------

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        own = ((module, schemes) for _, module, schemes in self._targets(training) if schemes.weights is not None)
        found = (module._parameters[name] for module, _ in own for name in weight_names(module))
        return [parameter for parameter in found if parameter is not None]

    def check(self, training: Training) -> None:
        super().check(training)
        misfits = []
        for name, module, schemes in self._targets(training):
            refuse_not_finite(name, module, "it has no scale; nothing was quantized", weight_names(module))
            if self.refusal(training, name, module) is None:
                misfits += [f"{name}: {reason}" for reason in [misfit_of(module, schemes.weights)] if reason]
        if misfits:
            raise TargetError(
                f"{self.name}: {'; '.join(misfits)}. Choose a size that divides them, or add these layers to ignore"
            )
        if training.clock is None:
            self._refuse_rounded(training)

    def objection(self, training: Training, earlier: Modifier, before: Training) -> str | None:
        if not isinstance(earlier, QuantizationModifier) or not earlier.rewrites:
            return None
        mine = {id(module): schemes.weights for module, schemes in self.fixed_layers(training).values()}
        for name, (module, schemes) in earlier.fixed_layers(before).items():
            own, theirs = mine.get(id(module)), schemes.weights
            if own is not None and theirs is not None and not self._keeps(theirs, own):
                return self._second_rounding(earlier.name, name)
        return None

    def remarks(self, training: Training) -> Sequence[str]:
        others = [f"{name} ({kind})" for name, kind in untreated(training.model, training.targets())]
        lines = [f"of a kind that is not quantized, left as they are: {', '.join(others)}"] if others else []
        results = self._rounded_results(training, list(self.layers(training)))
        named = ", ".join(named_result(result) for result in results)
        lines += [f"also quantized, so that an engine computes in integers: {named}"] if results else []
        return [*super().remarks(training), *lines]

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        return [self._foreseen(training, *target) for target in self._targets(training)]

    def refusal(self, training: Training, name: str, module: nn.Module) -> str | None:
        """Why a layer is left alone, or None."""
        return reason_to_refuse(module) or reason_not_to_be_called(training, name)

    def trials(self, training: Training) -> Sequence[Trial]:
        return width_trials(training, self.layers(training))

    def layers(self, training: Training) -> dict[str, tuple[nn.Module, LayerSchemes]]:
        """The layers that are quantized, by name, with their schemes."""
        return {
            name: (module, schemes)
            for name, module, schemes in self._targets(training)
            if self.refusal(training, name, module) is None
        }

    def fixed_layers(self, training: Training) -> dict[str, tuple[nn.Module, LayerSchemes]]:
        """The layers whose weights it puts on a grid."""
        return {name: each for name, each in self.layers(training).items() if each[1].weights is not None}

    def schemes_of(self, training: Training, state: QuantizedLayers) -> dict[str, LayerSchemes]:
        """The schemes of the layers in the state, at the widths that the state has."""
        return {
            name: _at_width(schemes, state.bits.get(name))
            for name, _, schemes in self._targets(training)
            if name in state.layers
        }

    def scheme_at(self, schemes: Mapping[str, LayerSchemes], name: str, place: Place) -> ActivationScheme:
        """The scheme of what goes into a layer, or of what comes out of any module."""
        scheme = schemes[name].activations if place == "input" else self.activations
        assert scheme is not None
        return scheme

    # -- the life of the quantizers ------------------------------------------------------------------------------

    def on_start(self, training: Training) -> QuantizedLayers:
        self.check(training)
        state = QuantizedLayers()
        targets = {name: (module, self.refusal(training, name, module)) for name, module, _ in self._targets(training)}
        training.refuse({name: reason for name, (_, reason) in targets.items() if reason is not None})
        layers = self.layers(training)
        if self.budget is not None:
            chosen = choose_widths(training, layers, self.budget, self.calibration_samples, self.dynamic)
            layers = {name: each for name, each in layers.items() if chosen.get(name, 0) is not None}
            training.refuse({name: IN_FLOATS for name in chosen if name not in layers})
            state.bits.update({name: bits for name, bits in chosen.items() if bits is not None})
            training.record("choose widths", bits=dict(state.bits))
        for name, (module, schemes) in layers.items():
            state.layers.append(name)
            if training.clock is None:
                self._take_grids_over(state, name, module, schemes)
            if schemes.activations is not None and not self.dynamic:
                state.ranges[f"{name}:input"] = Observation.unseen(schemes.activations, training.device)
        for result in self._rounded_results(training, state.layers):
            assert self.activations is not None
            key = f"{result.module}:{place_of_call(result.call)}"
            state.ranges[key] = Observation.unseen(self.activations, training.device)
        state.norms = folded_batch_norms(training, layers)
        return state

    def attach(self, training: Training, state: QuantizedLayers) -> None:
        self.attach_weights(training, state)
        self.attach_activations(training, state)
        use_slow_path(training.model, state.layers)

    def attach_weights(self, training: Training, state: QuantizedLayers, names: Collection[str] | None = None) -> None:
        """Put the quantizers on weights, of all layers or of those named; a grid in the state is fixed, others follow
        their weight."""
        for name, schemes in self.schemes_of(training, state).items():
            if schemes.weights is not None and (names is None or name in names):
                quantizer = self._weight_quantizer_of(training, state, name, schemes.weights)
                quantizer.fixed = any(f"{name}.{key}" in state.grids for key in quantizer.names)
                quantizer.rewritten = self.rewrites or state.kept.get(name, False)
                put_weight_quantizer(training, name, quantizer, state.grids)

    def attach_activations(self, training: Training, state: QuantizedLayers, always: bool = False) -> None:
        """Put the quantizers on inputs and outputs; they observe until the ranges freeze."""
        modules, schemes = named_modules(training.model), self.schemes_of(training, state)
        for name, place, observation in state.places():
            scheme = self.scheme_at(schemes, name, place)
            followed = None if state.frozen else observation
            quantizer = self.activation_quantizer(scheme, place, followed, always, state.passing)
            if not put(training, modules[name], quantizer):
                continue
            quantizer.add_buffers(modules[name])
            grid = state.grids.get(f"{name}:{place}")
            if grid is not None:
                quantizer.set_grid(modules[name], grid.scale, grid.zero_point)
            elif observation.seen:
                quantizer.set_grid(modules[name], *observation.solved(scheme))
        for name, each in schemes.items():
            if self.dynamic and each.activations is not None:
                self._attach_dynamic(training, state, name, each.activations)

    def _attach_dynamic(self, training: Training, state: QuantizedLayers, name: str, scheme: ActivationScheme) -> None:
        """Put on the quantizers of inputs as they come; inside of an LSTM and an attention too, as engines have it."""
        module, quantizer = named_modules(training.model)[name], ActivationQuantizer(scheme, dynamic=True)
        put(training, module, quantizer)
        inner = scheme.granularity == "tensor"
        if isinstance(module, nn.LSTM) and inner:
            put(training, module, HiddenStates(scheme))
        if isinstance(module, nn.MultiheadAttention) and inner and f"{name}.out_proj" in state.layers:
            put(training, module, AttentionOutputs(quantizer))

    def weight_quantizer(self, module: nn.Module, scheme: WeightScheme) -> WeightQuantizer:
        """The quantizer of a layer's weights, whose grid follows them."""
        return WeightQuantizer(scheme, weight_names(module), WeightLayout.of(module))

    def activation_quantizer(
        self, scheme: ActivationScheme, place: Place, observation: Observation | None, always: bool, passing: bool
    ) -> ActivationQuantizer:
        """The quantizer at one place."""
        return ActivationQuantizer(scheme, place, False, observation, always, passing)

    def fix_grids(self, training: Training, state: QuantizedLayers, names: Collection[str] | None = None) -> None:
        """Find the grids of weights as they are now, of all layers or of those named, and keep them in the state; those
        that were taken over stay."""
        modules = named_modules(training.model)
        for name, schemes in self.schemes_of(training, state).items():
            if schemes.weights is None or name in state.kept or (names is not None and name not in names):
                continue
            quantizer = self._weight_quantizer_of(training, state, name, schemes.weights)
            for key in quantizer.names:
                state.grids[f"{name}.{key}"] = Grid(*quantizer.grid(modules[name], key))

    def write_grids(self, training: Training, state: QuantizedLayers) -> None:
        """Bring the state's grids into the layers' buffers, in place."""
        modules = named_modules(training.model)
        weights = {key: grid for key, grid in state.grids.items() if ":" not in key}
        for key, grid in weights.items():
            name, _, parameter = key.rpartition(".")
            write_grid(modules[name], parameter, grid.scale, grid.zero_point)

    def write_ranges(self, training: Training, state: QuantizedLayers) -> None:
        """Bring the ranges that are solved for into the layers' buffers, in place."""
        modules, schemes = named_modules(training.model), self.schemes_of(training, state)
        for name, place, observation in state.places():
            scheme = self.scheme_at(schemes, name, place)
            if len(observation.counts) and observation.seen:
                write_grid(modules[name], place, *observation.solved(scheme))

    def calibrate(self, training: Training, state: QuantizedLayers, samples: int | None = None) -> None:
        """Run ``data`` through the model with whole activations, and take their ranges from it."""
        state.passing = True
        self.attach_activations(training, state, always=True)
        training.data.run(samples)
        state.passing = False
        self.freeze(training, state)

    def freeze(self, training: Training, state: QuantizedLayers) -> None:
        """Let the ranges move no more.

        Layers whose forward was never called, since a parent reads their weight, are left alone.

        Raises:
            ScheduleError: another layer whose forward was never called has no range, nor one that was given NaN or
                infinity.
        """
        self._leave_alone(training, state, [name for name in state.unseen() if weight_is_read(training.model, name)])
        spoiled = state.spoiled()
        if spoiled and training.clock is not None and not set(spoiled) & set(state.unseen()):
            warnings.warn(
                f"{self.name}: batches with NaN or infinity in what goes into {', '.join(spoiled)} were left out of "
                "their ranges",
                stacklevel=2,
            )
        elif spoiled:
            raise ScheduleError(
                f"{self.name}: what went into {', '.join(spoiled)} held NaN or infinity, so there is no scale: look at "
                "the data, at the learning rate, or for a mask of -inf that should not reach this layer"
            )
        unseen = state.unseen()
        if unseen:
            raise ScheduleError(
                f"{self.name}: no input of {', '.join(unseen)} was seen before the ranges froze, so there is no scale: "
                f"{why_unseen(training)}, or freeze later"
            )
        state.frozen = True
        self.attach_activations(training, state)

    def detach(self, training: Training, state: QuantizedLayers) -> None:
        training.links.remove(only=_passing)

    def release(self, training: Training, state: QuantizedLayers) -> None:
        super().release(training, state)
        remove_buffers(training.model, [*state.layers, *(name for name, _, _ in state.places())])
        restore_fast_path(training.model, state.layers)

    def _weight_quantizer_of(
        self, training: Training, state: QuantizedLayers, name: str, scheme: WeightScheme
    ) -> WeightQuantizer:
        """`weight_quantizer` with the batch-norm that is to be folded."""
        modules = named_modules(training.model)
        quantizer = self.weight_quantizer(modules[name], scheme)
        quantizer.norm = modules[state.norms[name]] if name in state.norms else None
        return quantizer

    # -- inside --------------------------------------------------------------------------------------------------

    def _keeps(self, earlier: WeightScheme, own: WeightScheme) -> bool:
        """Whether it leaves weights that an earlier modifier put on a grid where they are."""
        return not self.chooses and same_grid(earlier, own)

    def _take_grids_over(self, state: QuantizedLayers, name: str, module: nn.Module, schemes: LayerSchemes) -> None:
        """Keep the grid on which an earlier modifier has the weights, where it is of the same scheme."""
        link = weight_quantizer(module)
        if link is None or not link.fixed or schemes.weights is None or not self._keeps(link.scheme, schemes.weights):
            return
        state.kept[name] = link.rewritten
        state.grids.update({f"{name}.{key}": Grid(*link.grid(module, key)) for key in link.names})

    def _refuse_rounded(self, training: Training) -> None:
        """Refuse weights that another modifier, of this recipe or of one before, wrote onto a grid that is not its own.

        Raises:
            TargetError: names it and the layer.
        """
        for name, (module, schemes) in self.layers(training).items():
            link = weight_quantizer(module)
            if link is None or not link.rewritten or schemes.weights is None:
                continue
            if not self._keeps(link.scheme, schemes.weights):
                raise TargetError(f"{training.label}: {self._second_rounding(link.owner, name)}; nothing was changed")

    def _second_rounding(self, earlier: str, layer: str) -> str:
        return (
            f"the weights of {layer} are on the grid that {earlier} chose, and would be rounded a second time. Leave "
            "one of the two out, narrow the targets, or quantize inputs alone: weights of the same scheme as "
            f"{earlier} has, or weights: null, stay as they are"
        )

    def _leave_alone(self, training: Training, state: QuantizedLayers, names: Sequence[str]) -> None:
        """Take the quantizers off layers that turned out not to be called."""
        for name in names:
            state.layers.remove(name)
            state.ranges.pop(f"{name}:input")
            for key in [key for key in state.grids if key.rpartition(".")[0] == name]:
                state.grids.pop(key)
            module = named_modules(training.model)[name]
            remove_links(module, [link for link in links_of(module) if isinstance(link, Quantizer)])
        remove_buffers(training.model, names)
        training.refuse(dict.fromkeys(names, ONLY_READ))

    def _targets(self, training: Training) -> Iterator[tuple[str, nn.Module, LayerSchemes]]:
        """Every target, with its schemes."""
        targets = training.targets()
        try:
            different = overrides_by_layer(training.model, self.overrides, self.kinds)
        except TargetError as error:
            raise TargetError(f"{self.name}: {error}") from None
        for name, module in targets.items():
            schemes = merged(LayerSchemes(self.weights, self.activations), different.get(name, ()))
            try:
                schemes = for_engine(schemes, training.profile)
            except ValueError as error:
                raise TargetError(f"{self.name}: {name}: {error}") from None
            weights_alone = takes_indices(module) or parent_attention(training.model, name) is not None
            if weights_alone or self._float_reason(training, module, schemes) is not None:
                schemes = LayerSchemes(schemes.weights, None)
            yield name, module, schemes

    def _float_reason(self, training: Training, module: nn.Module, schemes: LayerSchemes) -> str | None:
        """Why the engine computes a layer in floating point, so that its inputs are not to be rounded."""
        if schemes.activations is None:
            return None
        way: Way = "dynamic" if self.dynamic else "static"
        weights = schemes.weights
        if training.engine is None or weights is None:
            return training.profile.float_reason(module, way)
        return training.profile.float_reason(module, way, weights.width, weights.granularity)

    def _foreseen(self, training: Training, name: str, module: nn.Module, schemes: LayerSchemes) -> Foreseen:
        reason = self.refusal(training, name, module) or misfit_of(module, schemes.weights)
        if reason is not None:
            return Foreseen(name, reason, refused=True)
        parts = effects_of(schemes, self.dynamic)
        if training.engine is not None:
            parts.append(self._computed(training, module, schemes))
        return Foreseen(name, ", ".join(parts) or "nothing", bits=bits_of(schemes))

    def _computed(self, training: Training, module: nn.Module, schemes: LayerSchemes) -> str:
        """How the engine computes a layer, for the plan."""
        assert training.engine is not None
        if schemes.activations is not None:
            return f"integer in {training.engine.name}"
        own = merged(LayerSchemes(self.weights, self.activations), ())
        reason = self._float_reason(training, module, own) or "only its weights are quantized"
        return f"floating point in {training.engine.name} ({reason})"

    def _rounded_results(self, training: Training, layers: Collection[str]) -> list[Result]:
        """The results that others than quantized layers read, and that an engine needs in 8 bits."""
        if self.activations is None or self.dynamic:
            return []
        fed = [name for name, _, schemes in self._targets(training) if name in layers and schemes.activations]
        return rounded_results(training, fed)


def _at_width(schemes: LayerSchemes, bits: int | None) -> LayerSchemes:
    if bits is None or schemes.weights is None:
        return schemes
    return LayerSchemes(schemes.weights.at_width(bits), schemes.activations)


def _passing(link: Link) -> bool:
    return not link.permanent


def why_unseen(training: Training) -> str:
    """Why a layer has seen no input, and what to do."""
    if training.eval_mode_steps:
        return (
            f"the model was in eval mode in {training.eval_mode_steps} training steps; call model.train() before "
            "training, and again after each evaluation"
        )
    return "their forward was never called; add them to ignore"
