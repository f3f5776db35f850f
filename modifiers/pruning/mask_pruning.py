"""The base of the modifiers that prune in place on a schedule: a criterion, a structure and a scope put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import ClassVar

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor, nn

from paredown.framework.curves import Curve, curve_value, share_of
from paredown.framework.errors import TargetError
from paredown.framework.modifier import Foreseen, Share, TargetedModifier
from paredown.framework.targets import named_modules
from paredown.framework.time import Time
from paredown.framework.training import Training
from paredown.modifiers.pruning.criterion import Criterion
from paredown.modifiers.pruning.mask_choice import (
    Prunable,
    chosen_units,
    equal_competitions,
    marks_of,
    ranked,
    unit_scores,
)
from paredown.modifiers.pruning.mask_state import (
    PRUNABLE,
    Masks,
    MaskState,
    clear_momenta_,
    refuse_nan_gradients,
    weights_of,
)
from paredown.modifiers.pruning.masks import MaskForm, apply_masks_, mask_keeping, prune_at_, to_bool
from paredown.modifiers.pruning.scope import (
    Competition,
    LayerShares,
    ScopeField,
    erdos_renyi_kernel_shares,
    local_counts,
    outlier_shares,
    shares_by_pattern,
    uniform_plus_shares,
    whole_counts,
)
from paredown.modifiers.pruning.selection import find_threshold
from paredown.modifiers.pruning.structure import Pattern, Structure, StructureField, structure_of

__all__ = ["MaskPruning"]


class MaskPruning(TargetedModifier):
    """Base: weights of low worth become zero in place, along a curve, and stay zero.

    A subclass gives the ``criterion``; everything else is here. Of n units exactly floor(share x n + 1/2) are zero,
    ties broken by index.
    """

    claims: ClassVar = frozenset({"zeros"})
    kinds: ClassVar = PRUNABLE
    state_type: ClassVar = MaskState

    every: Time | None = None
    """Distance between updates. Default: a fiftieth of the window, at least one step."""
    hold: bool = True
    """Keep the zeros after the window's end; false lets the pruned weights train again, from zero."""
    initial_sparsity: Share = 0.0
    """Share of zeros at the start of the window."""
    structure: StructureField = "unstructured"
    """What is removed together: ``unstructured``; ``"2:4"`` or any N:M (of M weights that follow each other along the
    inputs N stay); ``{block: [rows, columns]}``; ``kernel``; ``channel`` (an output's weights)."""
    scope: ScopeField = "global"
    """What competes: ``global`` all together, ``local`` each layer for itself, ``erk``, ``uniform_plus``, ``lamp``,
    ``owl``, or ``{layers: {pattern: share}}``, the final share layer by layer."""
    final_sparsity: Share | None = None
    """Share of zeros from the end of the window on. An N:M pattern implies it; beside ``scope: {layers: ...}`` it is
    for the layers that no pattern means, which otherwise stay as they are."""
    curve: Curve = "cubic"
    """How the share moves over the window."""
    masks: MaskForm = "fast"
    """Speed against memory: 4 bytes a float32 weight (``fast``), or 1 (``compact``)."""
    clear_momenta: bool = True
    """Set to zero what the optimizer remembers of weights when they are pruned, and when they are handed back."""

    @field_validator("final_sparsity")
    @classmethod
    def _share_is_told(cls, value: float | None, info: ValidationInfo) -> float | None:
        structure, scope = info.data.get("structure"), info.data.get("scope")
        if structure is None or scope is None:
            return value
        pattern = structure_of(structure)
        if isinstance(pattern, Pattern):
            if value is not None and abs(value - pattern.share) > 1e-9:
                raise ValueError(f"structure {structure} is a sparsity of {pattern.share:g}; leave final_sparsity out")
            return pattern.share
        if value is None and not isinstance(scope, LayerShares):
            raise ValueError("final_sparsity is required: the share of zeros at the end, 0 to 1")
        return value

    # -- the axes ------------------------------------------------------------------------------------------------

    @property
    def criterion(self) -> Criterion:
        """What weights are worth."""
        raise NotImplementedError

    @classmethod
    def default_criterion(cls) -> Criterion:
        """The criterion with its defaults, for ``criterion: name`` of other modifiers."""
        return cls.model_construct().criterion

    @cached_property
    def unit(self) -> Structure:
        """What is removed together."""
        return structure_of(self.structure)

    @property
    def rounds(self) -> int:
        """In how many rounds, each on what the one before left, an update reaches its share."""
        return 1

    # -- what the framework asks -----------------------------------------------------------------------------------

    @property
    def calibrates(self) -> bool:
        return self.criterion.watches or self.criterion.needs_data

    def unused_fields(self) -> Sequence[str]:
        level = self.curve == "constant" or not isinstance(self.curve, str)
        return ["initial_sparsity"] if level and "initial_sparsity" in self.model_fields_set else []

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return [each.weight for each in self.prunable(training).values()]

    def check(self, training: Training) -> None:
        self._final_shares(training, self._usable(training))

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        usable = self._usable(training)
        finals = self._final_shares(training, usable)
        lines = [Foreseen(_layer(name), why, refused=True) for name, why in self._refusals(training).items()]
        return [*lines, *_told(usable, finals, self._effect(training, usable))]

    def on_start(self, training: Training) -> MaskState:
        usable = self._usable(training)
        total = sum(each.weight.numel() for each in usable.values())
        zeros = sum(int((~to_bool(mask)).sum()) for mask in training.inherited.values())
        watched = self.criterion.start(training, {name: each.weight for name, each in usable.items()})
        return MaskState(Masks(training.inherited), zeros / total, watched)

    def on_update(self, training: Training, state: MaskState) -> None:
        usable = self._usable(training)
        final = self.final(training, usable)
        share = curve_value(self.curve, training.progress(self), min(self.initial_sparsity, final), final)
        if isinstance(self.curve, str):
            share = max(share, min(state.share, final))  # what is zero already is not given back
        refuse_nan_gradients(training, {name: each.weight for name, each in usable.items()})
        with _put_back_on_failure(usable if self.rounds > 1 else {}):
            for part in _rounds(state.share, share, self.rounds):
                self._prune(training, state, usable, part)
        state.share = share
        training.record(self, "update", sparsity=share)

    def on_step(self, training: Training, state: MaskState) -> None:
        state.masks.apply_()
        if self.criterion.watches and self.name not in training.ended:
            weights = {name: each.weight for name, each in self.prunable(training).items()}
            self.criterion.watch(training, weights, state.watched)

    def on_end(self, training: Training, state: MaskState) -> None:
        state.watched = type(state.watched)()
        if not self.hold:
            self._clear_momenta(training, {weight: ~to_bool(mask) for weight, mask in state.masks.items()})
            state.masks = Masks()

    def on_finalize(self, training: Training, state: MaskState) -> None:
        state.masks.apply_()  # weights may have been loaded since the last step

    def unreached(self, training: Training, state: MaskState | None) -> str | None:
        reached = 0.0 if state is None else state.share
        return f"sparsity {reached:.4g} was reached, {self.final(training, self._usable(training)):.4g} was wanted"

    # -- which weights -------------------------------------------------------------------------------------------

    def prunable(self, training: Training) -> dict[str, Prunable]:
        """The weights that are pruned, by name, with their layers."""
        modules = named_modules(training.model)
        found = weights_of(training.targets(self))
        each = {name: Prunable(name, weight, modules[_layer(name)]) for name, weight in found.items()}
        return {name: one for name, one in each.items() if self.unit.refusal(one.view, one.module) is None}

    def _usable(self, training: Training) -> dict[str, Prunable]:
        usable = self.prunable(training)
        if not usable:
            name, reason = next(iter(self._refusals(training).items()))
            raise TargetError(f"{self.name}: no layer can be pruned by {self.structure}: {name}: {reason}")
        return usable

    def _refusals(self, training: Training) -> dict[str, str]:
        modules = named_modules(training.model)
        found = {}
        for name, weight in weights_of(training.targets(self)).items():
            one = Prunable(name, weight, modules[_layer(name)])
            reason = self.unit.refusal(one.view, one.module)
            if reason is not None:
                found[name] = reason
        return found

    # -- how many ------------------------------------------------------------------------------------------------

    def final(self, training: Training, usable: Mapping[str, Prunable]) -> float:
        """The share of zeros, over all weights, at the end."""
        if not isinstance(self.scope, LayerShares):
            assert self.final_sparsity is not None
            return self.final_sparsity
        shares = self._final_shares(training, usable)
        sizes = {name: each.weight.numel() for name, each in usable.items()}
        return sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values())

    def _final_shares(self, training: Training, usable: Mapping[str, Prunable]) -> dict[str, float]:
        weights = {name: each.weight for name, each in usable.items()}
        otherwise = self.final_sparsity or 0.0
        if not isinstance(self.scope, LayerShares):
            return dict.fromkeys(weights, otherwise)
        try:
            return shares_by_pattern(training.model, weights, self.scope.layers, otherwise)
        except TargetError as error:
            raise TargetError(f"{self.name}: {error}") from None

    def _competitions(
        self,
        training: Training,
        state: MaskState,
        usable: Mapping[str, Prunable],
        sizes: Mapping[str, int],
        share: float,
    ) -> list[Competition]:
        """Who competes for how many units; ``sizes`` counts each weight's units."""
        if self.scope in ("global", "local", "lamp"):
            return equal_competitions(sizes, share, self.scope != "local")
        if isinstance(self.scope, LayerShares):
            final, shares = self.final(training, usable), self._final_shares(training, usable)
            if share != final:
                shares = {name: min(each * share / final, 1.0) for name, each in shares.items()}
            return [Competition((name,), count) for name, count in local_counts(sizes, shares).items()]
        counts = whole_counts(sizes, self._layer_shares(state, usable, sizes, share), share_of(share, sum(sizes.values())))
        return [Competition((name,), count) for name, count in counts.items()]

    def _layer_shares(
        self, state: MaskState, usable: Mapping[str, Prunable], sizes: Mapping[str, int], share: float
    ) -> dict[str, float]:
        if self.scope == "owl":
            return {name: min(max(share + state.deviations[name], 0.0), 1.0) for name in usable}
        if self.scope == "erk":
            return erdos_renyi_kernel_shares({name: each.view.shape for name, each in usable.items()}, share)
        convolutions = (name for name, each in usable.items() if isinstance(each.module, nn.modules.conv._ConvNd))
        linear = [name for name, each in usable.items() if isinstance(each.module, nn.Linear)]
        return uniform_plus_shares(sizes, share, next(convolutions, None), linear[-1] if linear else None)

    # -- pruning ---------------------------------------------------------------------------------------------------

    def _prune(self, training: Training, state: MaskState, usable: Mapping[str, Prunable], share: float) -> None:
        if share == 0 and not state.masks:
            return
        before = Masks(state.masks)
        if self.criterion.by_magnitude and self.structure == "unstructured" and self.scope not in ("lamp", "owl"):
            masks = self._prune_by_magnitude(training, state, usable, share)
        else:
            masks = self._prune_by_scores(training, state, usable, share)
        state.masks = masks
        weights = {name: each.weight for name, each in usable.items()}
        self.criterion.renew(weights, state.watched)
        self._clear_momenta(training, dict(_changed(before, masks)))

    def _prune_by_magnitude(
        self, training: Training, state: MaskState, usable: Mapping[str, Prunable], share: float
    ) -> Masks:
        """The same as by scores, without a tensor of scores."""
        sizes = {name: each.weight.numel() for name, each in usable.items()}
        competitions = self._competitions(training, state, usable, sizes, share)
        groups = [[usable[name].weight for name in each.members] for each in competitions]
        thresholds = [
            find_threshold(group, each.count, names=each.members)
            for group, each in zip(groups, competitions, strict=True)
        ]
        masks = Masks()
        for group, threshold in zip(groups, thresholds, strict=True):
            masks.update(zip(group, prune_at_(group, threshold, form=self.masks), strict=True))
        return masks

    def _prune_by_scores(
        self, training: Training, state: MaskState, usable: Mapping[str, Prunable], share: float
    ) -> Masks:
        units = self._unit_scores(training, state, usable)
        if self.scope == "owl" and not state.deviations:
            spread = outlier_shares({name: each.clamp(min=0) for name, each in units.items()}, share)
            state.deviations.update({name: each - share for name, each in spread.items()})
        sizes = {name: each.numel() for name, each in units.items()}
        competitions = self._competitions(training, state, usable, sizes, share)
        marks = chosen_units(ranked(units, self.unit, self.scope == "lamp"), competitions)
        pruned = {name: marks_of(usable[name], each, self.unit) for name, each in marks.items()}
        return self._put_to_zero(state, usable, pruned)

    def _unit_scores(
        self, training: Training, state: MaskState, usable: Mapping[str, Prunable]
    ) -> dict[str, Tensor]:
        weights = {name: each.weight for name, each in usable.items()}
        groups = [weights] if self.criterion.jointly else [{name: weight} for name, weight in weights.items()]
        units: dict[str, Tensor] = {}
        for group in groups:
            scores = self.criterion.scores(training, self, group, state.watched)
            unknown = [name for name in group if name not in scores]
            if unknown:
                raise TargetError(f"{self.name} cannot weigh {unknown[0]}: add its layer to ignore")
            for name, each in scores.items():
                units[name] = self.criterion.combined(
                    unit_scores(usable[name], each, self.unit, self._stays_pruned(state, weights[name]))
                )
        return units

    def _stays_pruned(self, state: MaskState, weight: nn.Parameter) -> Tensor | None:
        if self.criterion.regrows or weight not in state.masks:
            return None
        return ~to_bool(state.masks[weight])

    @torch.no_grad()
    def _put_to_zero(
        self, state: MaskState, usable: Mapping[str, Prunable], pruned: Mapping[str, Tensor]
    ) -> Masks:
        weights = {name: usable[name].weight for name in pruned}
        self.criterion.compensate(weights, pruned, state.watched)
        masks = Masks()
        for name, weight in weights.items():
            if self.criterion.regrows:
                _bring_back_(weight, pruned[name], state)
            masks[weight] = mask_keeping(~pruned[name], weight, self.masks)
        apply_masks_(list(masks), list(masks.values()))
        return masks

    def _clear_momenta(self, training: Training, marks: Mapping[nn.Parameter, Tensor]) -> None:
        if self.clear_momenta:
            clear_momenta_(training.optimizers, marks)

    def _effect(self, training: Training, usable: Mapping[str, Prunable]) -> str:
        units = sum(each.weight.numel() for each in usable.values())
        if isinstance(self.unit, Pattern):
            return f"{self.structure} along the inputs"
        if self.scope == "global":
            return f"{self.final_sparsity:.4g} of {units} together" if self.structure == "unstructured" else "together"
        return "of each layer" if self.scope == "local" else "by layer"


def _told(usable: Mapping[str, Prunable], finals: Mapping[str, float], effect: str) -> Iterator[Foreseen]:
    for name, each in usable.items():
        share = finals[name]
        density = 1 - share_of(share, each.weight.numel()) / each.weight.numel()
        yield Foreseen(_layer(name), f"{share:.4g} {effect} zero", density=density)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _rounds(reached: float, share: float, rounds: int) -> Iterator[float]:
    """Shares at which in each round the same part of what is left goes."""
    for number in range(1, rounds):
        left = max(1 - share, 1e-9) / max(1 - reached, 1e-9)
        yield 1 - (1 - reached) * left ** (number / rounds)
    yield share


def _bring_back_(weight: nn.Parameter, pruned: Tensor, state: MaskState) -> None:
    """Give a weight the values that it had when it was pruned, and remember them."""
    values = state.watched.values
    whole = weight.detach().clone()
    if weight in state.masks:
        whole = torch.where(to_bool(state.masks[weight]), whole, values[weight])
    values[weight] = whole
    weight.copy_(whole)


def _changed(before: Masks, after: Masks) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Where a weight was pruned, or came back."""
    for weight, mask in after.items():
        keep = to_bool(mask)
        yield weight, ~keep if weight not in before else keep != to_bool(before[weight])


@contextmanager
def _put_back_on_failure(usable: Mapping[str, Prunable]) -> Iterator[None]:
    kept = {name: each.weight.detach().clone() for name, each in usable.items()}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, each in kept.items():
                usable[name].weight.copy_(each)
        raise
