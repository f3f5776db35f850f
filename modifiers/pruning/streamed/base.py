"""The base of the modifiers that prune a trained model at once, layer by layer, on calibration data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, Strict, model_validator
from torch import Tensor, nn

from paredown.framework.calibration.rollback import Rollback
from paredown.framework.calibration.second_moments import WITH_COLUMNS, second_moments
from paredown.framework.calibration.streaming import Unit, stream
from paredown.framework.model.weights import COMPUTED, WeightLayout, refuse_not_finite, tied_to, weight_rows
from paredown.framework.modifier.base import Foreseen, Recalibrating
from paredown.framework.modifier.curves import share_of
from paredown.framework.modifier.fields import Share, Trial
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.apply import converted, fast_mask, to_bool
from paredown.modifiers.pruning.masks.floor import checked_floor, least_kept, limits_of
from paredown.modifiers.pruning.masks.held_masks import HeldMasks
from paredown.modifiers.pruning.masks.rows import Goal, prune_rows
from paredown.modifiers.pruning.masks.scope import (
    LayerShares,
    outlier_shares,
    shares_by_pattern,
    shares_within,
    whole_counts,
)
from paredown.modifiers.pruning.masks.state import Masks, MaskState, weights_of
from paredown.modifiers.pruning.masks.trials import layer_shares, row_trials
from paredown.modifiers.pruning.scoring.criterion import criterion_named
from paredown.modifiers.pruning.scoring.scores import scores_now
from paredown.modifiers.pruning.scoring.units import Pattern, pattern_named

__all__ = ["Damping", "StreamedPruning"]

Damping = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]


def _known_structure(value: Any) -> Any:
    if value != "unstructured" and pattern_named(value) is None:
        raise ValueError(f"{value!r} is no structure here; one of unstructured, or N:M such as 2:4")
    return value


def _known_scope(value: Any) -> Any:
    return LayerShares.model_validate(value) if isinstance(value, dict) else value


class StreamedPruning(Recalibrating, HeldMasks):
    """Base of the modifiers that act once, at ``start``: each layer is pruned for the inputs that the layers pruned
    before it give, in the memory of one block; its zeros are held from then on.

    Where that fails midway, all weights are put back.
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]] = WITH_COLUMNS
    #: what its plan calls the way it chooses
    way: ClassVar[str]

    samples: Annotated[int, Strict(), Field(ge=1)] | None = None
    """How much of ``data`` is used to calibrate; a hundred are usually enough. Default: all."""
    final_sparsity: Share | None = None
    """Share of zeros of each layer: of n weights exactly floor(share x n + 1/2). With N:M it is 1 - N/M. Beside
    ``scope: {layers: ...}`` it is for the layers that no pattern means, which otherwise stay as they are."""
    structure: Annotated[
        Literal["unstructured"] | Annotated[str, Field(pattern=r"^\d+:\d+$")], BeforeValidator(_known_structure)
    ] = "unstructured"
    """``unstructured``, or N:M such as ``"2:4"``: of M weights that follow each other along the input channels, at one
    place of a kernel, N stay."""
    scope: Annotated[Literal["local", "owl"] | LayerShares, BeforeValidator(_known_scope)] = "local"
    """``local``: the same share in each layer; ``owl``: blocks with more outliers give up less (Yin et al., 2023,
    arXiv:2310.05175), for which the data runs through the dense model once more; or ``{layers: {pattern: share}}``."""

    layer_floor: Share | None = None
    """The least share of its weights that each layer keeps; with ``owl`` the others give more, so that the share of all
    is reached. Default: 0.01, or half of what the final share leaves where that is less; 0: none."""

    @model_validator(mode="after")
    def _one_share(self) -> StreamedPruning:
        if self.pattern is None and self.final_sparsity is None and not isinstance(self.scope, LayerShares):
            raise ValueError("final_sparsity is missing: the share of zeros, or structure: N:M")
        if self.pattern is not None and abs((self.final_sparsity or self.pattern.share) - self.pattern.share) > 1e-3:
            raise ValueError(
                f"final_sparsity {self.final_sparsity:g} does not fit structure {self.structure}, which has a share of "
                f"{self.pattern.share:g}: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _floor_leaves_room(self) -> StreamedPruning:
        layers = self.scope.layers.values() if isinstance(self.scope, LayerShares) else ()
        checked_floor(self.layer_floor, [self.pattern.share if self.pattern else self.final_sparsity, *layers])
        return self

    @property
    def pattern(self) -> Pattern | None:
        """N:M, where that is the structure."""
        return pattern_named(self.structure)

    @property
    def acts_once(self) -> bool:
        return True

    @property
    def calibrates(self) -> bool:
        return True

    @property
    def recalibration_samples(self) -> int | None:
        return self.samples

    def unused_fields(self) -> Sequence[str]:
        return ["scope"] if self.pattern is not None and self.scope != "local" else []

    # -- what a method decides ---------------------------------------------------------------------------------------

    @abstractmethod
    def pruned_rows(self, rows: Tensor, moments: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """New values, (out, n), and what is pruned of them, bool (out, n). What is zero stays zero.

        Args:
            rows: the weight, (out, n), in the type of ``moments``.
            moments: what `moments` gave for the layer, its columns in the order of those of ``rows``.
            goal: how many are zero afterwards (more where there are more zeros), or the pattern of neighbours in a row.

        See `paredown.modifiers.pruning.masks.rows.prune_rows`.
        """

    def moments(self, training: Training, unit: Unit) -> Mapping[str, Tensor]:
        """What is known of the inputs of a unit's layers: second moments (groups, n, n), or their diagonal."""
        return {name: each.matrix for name, each in second_moments(training, unit).items()}

    def without_data(self, rows: Tensor) -> Tensor:
        """What `moments` gives for a layer whose forward no batch reached: inputs that are all alike."""
        return torch.eye(rows[0].numel(), device=rows.device)[None]

    def refusal(self, training: Training, name: str, module: nn.Module) -> str | None:
        """Why a layer is left alone, or None."""
        weight = module._parameters.get("weight")
        if weight is None:
            return COMPUTED
        tied = tied_to(training.model, name)
        if tied is not None:
            return f"its weight is tied to {tied!r}"
        return None if self.pattern is None else self.pattern.misfit(weight_rows(module))

    # -- the contract of a modifier ------------------------------------------------------------------------------------

    def check(self, training: Training) -> None:
        super().check(training)
        layers = self._layers(training)
        self._goals(training, layers)
        for name, module in layers.items():
            refuse_not_finite(name, module, "nothing was pruned")
        training.data.require()

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return [module.get_parameter("weight") for module in self._layers(training).values()]

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        goals = self._goals(training, self._layers(training))
        return [
            self._foreseen(name, module, goals[name])
            if name in goals
            else Foreseen(name, self.refusal(training, name, module) or "", refused=True)
            for name, module in training.targets().items()
        ]

    def trials(self, training: Training) -> Sequence[Trial]:
        self.check(training)
        layers = self._layers(training)
        weights = {name: weight_rows(module) for name, module in layers.items()}
        return row_trials(weights, self._known(training, weights), self.pattern, self.layer_floor, self.pruned_rows)

    def with_settings(self, training: Training, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        return None if self.pattern is not None else layer_shares(training, settings)

    def on_start(self, training: Training) -> MaskState:
        return MaskState(masks=Masks(training.inherited))

    def on_update(self, training: Training, state: MaskState) -> None:
        layers = self._layers(training)
        for name, module in layers.items():
            refuse_not_finite(name, module, f"nothing was pruned at step {training.step}")
        masks = Masks()
        with Rollback() as kept:
            unseen = dict(self._goals(training, layers, self._outlier_shares(training, layers)))
            for name, moments in self._streamed(training, list(layers)):
                self._prune(layers[name], moments, unseen.pop(name), kept, masks)
            for name, goal in unseen.items():
                self._prune(layers[name], None, goal, kept, masks)
        state.masks = masks
        total = sum(weight.numel() for weight in masks)
        state.share = sum(int((~to_bool(mask)).sum()) for mask in masks.values()) / max(total, 1)
        training.record("update", sparsity=state.share, without_data=list(unseen))

    def unreached(self, training: Training, state: MaskState | None) -> str | None:
        return None if state is not None and (state.masks or state.share) else "nothing was pruned"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _layers(self, training: Training) -> dict[str, nn.Module]:
        """The targets that are not left alone."""
        targets = training.targets().items()
        return {name: module for name, module in targets if self.refusal(training, name, module) is None}

    def _goals(
        self, training: Training, layers: Mapping[str, nn.Module], found: Mapping[str, float] | None = None
    ) -> dict[str, Goal]:
        """What is to be pruned of each layer; ``found`` has the shares where these are not the recipe's."""
        if self.pattern is not None:
            return dict.fromkeys(layers, self.pattern)
        weights = weights_of(layers)
        sizes = {name: weight.numel() for name, weight in weights.items()}
        shares = self._shares(training, weights)
        most = limits_of(sizes, least_kept(sizes, shares, self.layer_floor), {})
        if found:
            total = share_of(self.final_sparsity or 0.0, sum(sizes.values()))
            counts = whole_counts(sizes, shares_within(sizes, found, total, {}, most), total, most=most)
        else:
            counts = {name: min(share_of(shares[name], size), most[name]) for name, size in sizes.items()}
        return dict(zip(layers, counts.values(), strict=True))

    def _shares(self, training: Training, weights: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """The share of zeros of each weight, by parameter name."""
        share = self.final_sparsity or 0.0
        by_pattern = self.scope.layers if isinstance(self.scope, LayerShares) else {}
        return shares_by_pattern(training.model, weights, by_pattern, share)

    def _outlier_shares(self, training: Training, layers: Mapping[str, nn.Module]) -> dict[str, float]:
        if self.scope != "owl" or self.pattern is not None:
            return {}
        weights = weights_of(layers)
        scores = scores_now(criterion_named("wanda"), training, weights)
        missing = {name: weight.new_zeros(weight.shape) for name, weight in weights.items() if name not in scores}
        return outlier_shares({**scores, **missing}, self.final_sparsity or 0.0)

    def _foreseen(self, name: str, module: nn.Module, goal: Goal) -> Foreseen:
        total = module.get_parameter("weight").numel()
        if isinstance(goal, Pattern):
            return Foreseen(name, f"{self.structure} along its inputs, {self.way}", density=1 - goal.share)
        effect = f"{goal} of {total} weights zero, {self.way}"
        if self.scope == "owl":
            effect = f"about {effect}: an estimate, blocks with more outliers in data give up less"
        return Foreseen(name, effect, density=1 - goal / total)

    def _streamed(self, training: Training, layers: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        for unit in stream(training, layers, self.samples):
            yield from self.moments(training, unit).items()

    def _known(self, training: Training, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """What is known of each layer's inputs in the model as it is."""
        unseen = dict(weights)
        for name, moments in self._streamed(training, list(weights)):
            del unseen[name]
            yield name, moments
        yield from ((name, self.without_data(weight)) for name, weight in unseen.items())

    def _prune(self, module: nn.Module, moments: Tensor | None, goal: Goal, kept: Rollback, masks: Masks) -> None:
        """Write one layer's new weight and its mask."""
        weight, rows, layout = module.get_parameter("weight"), weight_rows(module), WeightLayout.of(module)
        moments = self.without_data(rows) if moments is None else moments
        new, keep = (layout.kept(each) for each in prune_rows(rows, moments, goal, self.pruned_rows))
        kept.keep(weight)
        with torch.no_grad():
            weight.copy_(new)
        masks[weight] = converted(keep if self.masks == "compact" else fast_mask(keep, weight.dtype), weight)
