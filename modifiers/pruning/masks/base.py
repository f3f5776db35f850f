"""The base of the modifiers that prune in place on a schedule, by a criterion, a structure and a scope."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from paredown.framework.calibration.rollback import Rollback
from paredown.framework.distributed.shards import any_of_parts
from paredown.framework.errors import TargetError
from paredown.framework.model.optimizers import clear_momenta_
from paredown.framework.model.targets import named_modules
from paredown.framework.modifier.base import Foreseen, Recalibrating
from paredown.framework.modifier.fields import Share, Trial
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.apply import to_bool
from paredown.modifiers.pruning.masks.competitions import overall
from paredown.modifiers.pruning.masks.floor import checked_floor
from paredown.modifiers.pruning.masks.held_masks import HeldMasks
from paredown.modifiers.pruning.masks.scope import LayerShares, ScopeField, shares_by_pattern
from paredown.modifiers.pruning.masks.state import (
    Masks,
    MaskState,
    weights_of,
)
from paredown.modifiers.pruning.masks.trials import layer_shares, mask_trials
from paredown.modifiers.pruning.masks.update import SCORED, MaskUpdate, held_units
from paredown.modifiers.pruning.scoring.criterion import Criterion, criterion_named
from paredown.modifiers.pruning.scoring.prunable import Prunable, layer_of
from paredown.modifiers.pruning.scoring.scores import watch
from paredown.modifiers.pruning.scoring.units import Pattern, Structure, StructureField, structure_of

__all__ = ["MaskPruning"]

#: shares are made of whole units, and told with four digits
SHARE_TOLERANCE = 1e-6

#: where scores come from that the weights alone do not give, by what a criterion needs
ORIGINS = {"model": "the whole model's output", "data": "data", "gradients": "gradients"}


class MaskPruning(Recalibrating, HeldMasks):
    """Base: weights of low worth become zero in place, and stay zero.

    A subclass gives the criterion, ``ranking``, and decides when to `prune`. Of n units exactly floor(share x n +
    1/2) are
    zero, ties broken by index.
    """

    every: Time | None = None
    """Distance between updates. Default: a fiftieth of the window, at least one step."""
    structure: StructureField = "unstructured"
    """What is removed together: ``unstructured``; ``"2:4"`` or any N:M (of M weights that follow each other along the
    inputs N stay); ``{block: [rows, columns]}``; ``kernel``; ``channel`` (an output's weights)."""
    scope: ScopeField = "global"
    """What competes: ``global`` all together, ``local`` each layer for itself, ``erk``, ``uniform_plus``, ``lamp``,
    ``owl``, or ``{layers: {pattern: share}}``, the final share layer by layer."""
    final_sparsity: Share | None = None
    """Share of zeros from the end of the window on.

    An N:M pattern implies it; beside ``scope: {layers: ...}`` it is for the layers that no pattern means, which
    otherwise stay as they are."""
    layer_floor: Share | None = None
    """The least share of its weights that each layer keeps, rounded up to whole units; the others give more, so that
    the share of all is reached. Default: 0.01, or half of what the final share leaves where that is less; 0: none."""
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
            if scope not in ("global", "local"):
                raise ValueError(f"structure {structure} is the same share everywhere: scope is global or local")
            if value is not None and abs(value - pattern.share) > 1e-9:
                raise ValueError(f"structure {structure} is a sparsity of {pattern.share:g}; leave final_sparsity out")
            return pattern.share
        if value is None and not isinstance(scope, LayerShares):
            raise PydanticCustomError("missing", "final_sparsity is required")
        return value

    @field_validator("layer_floor")
    @classmethod
    def _floor_leaves_room(cls, value: float | None, info: ValidationInfo) -> float | None:
        scope = info.data.get("scope")
        layers = scope.layers.values() if isinstance(scope, LayerShares) else ()
        return checked_floor(value, [info.data.get("final_sparsity"), *layers])

    # -- the axes ------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def ranking(self) -> Criterion:
        """What weights are worth."""

    @property
    def unit(self) -> Structure:
        """What is removed together."""
        return structure_of(self.structure)

    # -- what the framework asks -----------------------------------------------------------------------------------

    @property
    def update_interval(self) -> Time | None:
        return self.every

    @property
    def works_on_parts(self) -> bool:
        return self.unit.free and self.ranking.by_magnitude and self.scope not in ("lamp", "owl")

    @property
    def calibrates(self) -> bool:
        return self.ranking.needs in ("data", "gradients")

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return [each.weight for each in self.prunable(training).values()]

    def check(self, training: Training) -> None:
        usable = self.usable(training)
        finals = self._final_shares(training, usable)
        self._update(training).contests(MaskState(), usable, self.final(training, usable), finals)
        self.ranking.check(training)

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        usable = self.usable(training)
        finals = self._final_shares(training, usable)
        known = not any(one.weight.is_meta for one in usable.values())
        shares = {**finals, **self._foreseen_shares(training, usable, finals)} if known else finals
        return [self._foreseen(one, shares) for one in self._meant(training).values()]

    def _foreseen_shares(
        self, training: Training, usable: Mapping[str, Prunable], finals: Mapping[str, float]
    ) -> dict[str, float]:
        """What each weight gives up if it stays as it is; by its magnitudes where scores come from elsewhere."""
        ranking = criterion_named("magnitude") if self._estimated else self.ranking
        weights = {name: one.weight for name, one in usable.items()}
        state = MaskState(watched=ranking.start(training, weights))
        update = replace(self._update(training), criterion=ranking)
        return update.foreseen(state, usable, self.final(training, usable), finals)

    @property
    def _estimated(self) -> bool:
        """Whether the plan cannot know the scores that decide how much of each layer goes."""
        return self.scope in SCORED and self.ranking.needs != "weights"

    def _foreseen(self, one: Prunable, shares: Mapping[str, float]) -> Foreseen:
        reason = self._refusal(one)
        if reason is not None:
            return Foreseen(one.layer, reason, refused=True)
        share = shares[one.name]
        effect = f"{share:.4g} of it zero, {self._structure_told}"
        if self._estimated:
            effect = f"about {effect}: an estimate by magnitude, it is weighed by {ORIGINS[self.ranking.needs]}"
        elif self.scope in SCORED:
            effect += ", as the weights are now"
        return Foreseen(one.layer, effect, density=1 - share)

    @property
    def _structure_told(self) -> str:
        if isinstance(self.structure, str):
            return self.structure
        return f"blocks of {self.structure.block[0]} x {self.structure.block[1]}"

    def trials(self, training: Training) -> Sequence[Trial]:
        return mask_trials(self._update(training), self.on_start(training), self.usable(training))

    def with_settings(self, training: Training, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        return None if isinstance(self.unit, Pattern) else layer_shares(training, settings)

    def on_start(self, training: Training) -> MaskState:
        usable = self.usable(training)
        masks = Masks(training.inherited)
        units = self._update(training).sharing(usable, {}).sizes
        share = sum(held_units(self.unit, usable, masks).values()) / max(sum(units.values()), 1)
        weights = {name: each.weight for name, each in usable.items()}
        watched = self.ranking.start(training, weights)
        if training.step:  # the step that led into the window counts
            watch(self.ranking, training, weights, watched)
        return MaskState(masks, share, watched)

    def on_step(self, training: Training, state: Any) -> None:
        super().on_step(training, state)
        if self.ranking.needs == "gradients" and not training.ended:
            weights = {name: each.weight for name, each in self.prunable(training).items()}
            watch(self.ranking, training, weights, state.watched)

    def on_end(self, training: Training, state: Any) -> None:
        state.watched = type(state.watched)()
        self._record_empty_layers(training, state)
        if not self.hold:
            self.hand_back(training, state)

    def unreached(self, training: Training, state: MaskState | None) -> str | None:
        reached, wanted = 0.0 if state is None else state.share, self.final(training, self.prunable(training))
        if reached >= wanted - SHARE_TOLERANCE:
            return None
        return f"sparsity {reached:.4g} was reached, {wanted:.4g} was wanted"

    def _record_empty_layers(self, training: Training, state: MaskState) -> None:
        usable = self.usable(training)
        finals = self._final_shares(training, usable)
        held = {name: one.weight for name, one in usable.items() if one.weight in state.masks}
        empty = [name for name, one in held.items() if not any_of_parts(bool((state.masks[one] != 0).any()), one)]
        unasked = [name for name in empty if finals[name] < 1]
        if unasked:
            kept = "a layer_floor above 0, or ignore, keeps weights there"
            training.record("empty", remark=f"nothing is left of {', '.join(unasked)}; {kept}")

    # -- which weights -------------------------------------------------------------------------------------------

    def prunable(self, training: Training) -> dict[str, Prunable]:
        """The weights that are pruned, by name, with their layers."""
        return {name: one for name, one in self._meant(training).items() if self._refusal(one) is None}

    def _meant(self, training: Training) -> dict[str, Prunable]:
        modules = named_modules(training.model)
        found = weights_of(training.targets())
        return {name: Prunable(name, weight, modules[layer_of(name)]) for name, weight in found.items()}

    def _refusal(self, one: Prunable) -> str | None:
        if not one.weight.numel():
            return "it has no weights"
        if self.ranking.by_gradients and not one.weight.requires_grad:
            return "it is frozen, and weights are weighed by their gradients"
        return self.unit.refusal(one.view, one.module)

    def usable(self, training: Training) -> dict[str, Prunable]:
        """Those that are pruned; at least one.

        Raises:
            TargetError: no layer fits the structure; the message has one with its reason.
        """
        usable = self.prunable(training)
        if not usable:
            one = next(iter(self._meant(training).values()))
            raise TargetError(
                f"{self.name}: no layer can be pruned by {self._structure_told}: {one.layer}: {self._refusal(one)}"
            )
        return usable

    # -- how many ------------------------------------------------------------------------------------------------

    def final(self, training: Training, usable: Mapping[str, Prunable]) -> float:
        """The share of zeros, over all weights, at the end."""
        if not isinstance(self.scope, LayerShares):
            assert self.final_sparsity is not None
            return self.final_sparsity
        sizes = {name: each.weight.numel() for name, each in usable.items()}
        return overall(sizes, self._final_shares(training, usable))

    def _final_shares(self, training: Training, usable: Mapping[str, Prunable]) -> dict[str, float]:
        weights = {name: each.weight for name, each in usable.items()}
        otherwise = self.final_sparsity or 0.0
        if not isinstance(self.scope, LayerShares):
            return dict.fromkeys(weights, otherwise)
        try:
            return shares_by_pattern(training.model, weights, self.scope.layers, otherwise)
        except TargetError as error:
            raise TargetError(f"{self.name}: {error}") from None

    # -- pruning ---------------------------------------------------------------------------------------------------

    def prune(
        self, training: Training, state: MaskState, usable: Mapping[str, Prunable], share: float, rounds: int = 1
    ) -> None:
        """Bring the weights to a share of zeros now, in one or several rounds; all or nothing."""
        if share == 0 and not state.masks:
            return
        if share <= state.share and self.ranking.needs == "gradients" and not state.watched.count:
            return  # nothing new to go by, and nothing more to go
        before = Masks(state.masks)
        finals = self._final_shares(training, usable)
        weights = {name: each.weight for name, each in usable.items()}
        with _put_back_on_failure(weights.values() if rounds > 1 else (), state):
            for part in _rounds(state.share, share, rounds):
                state.copies = None
                state.masks = self._update(training).run(state, usable, part, finals)
                self.ranking.renew(weights, state.watched)
        self.forget(training, _changed(before, state.masks))

    def _update(self, training: Training) -> MaskUpdate:
        return MaskUpdate(training, self.ranking, self.unit, self.scope, self.masks, self.layer_floor)

    def hand_back(self, training: Training, state: MaskState) -> None:
        """Let all weights train again, from zero."""
        self.forget(training, ((weight, ~to_bool(mask)) for weight, mask in state.masks.items()))
        state.masks = Masks()

    def forget(self, training: Training, marks: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
        """Clear the momenta of weights where marked, if asked to."""
        if self.clear_momenta:
            clear_momenta_(training.optimizers, marks)


def _changed(before: Masks, after: Masks) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Where a weight was pruned, or came back."""
    for weight, mask in after.items():
        keep = to_bool(mask)
        yield weight, ~keep if weight not in before else keep != to_bool(before[weight])


def _rounds(reached: float, share: float, rounds: int) -> Iterator[float]:
    """Shares at which in each round the same part of what is left goes."""
    for number in range(1, rounds):
        left = max(1 - share, 1e-9) / max(1 - reached, 1e-9)
        yield 1 - (1 - reached) * left ** (number / rounds)
    yield share


@contextmanager
def _put_back_on_failure(weights: Iterable[nn.Parameter], state: MaskState) -> Iterator[None]:
    masks = Masks(state.masks)
    try:
        with Rollback() as kept:
            for weight in weights:
                kept.keep(weight)
            yield
    except BaseException:
        state.masks = masks
        raise
