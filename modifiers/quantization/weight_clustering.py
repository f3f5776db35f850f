"""`weight_clustering`: a layer's weights share a few values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn

from paredown.framework.errors import ScheduleError
from paredown.framework.model.weights import refuse_not_finite
from paredown.framework.modifier.base import Foreseen, Recalibrating, TargetedModifier
from paredown.framework.modifier.proposals import Proposal
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.grids_beside import GridBeside, folded_after, grids_beside
from paredown.modifiers.quantization.layers.clustered import (
    Clusters,
    assigned,
    joined,
    nearer,
    tie_momenta_,
    tied_weight,
    turned,
)
from paredown.modifiers.quantization.layers.clustered_weights import WeightInLayer, keep_scales
from paredown.modifiers.quantization.layers.importance import importance_of
from paredown.modifiers.quantization.layers.kinds import LAYERS, reason_to_refuse, weight_names
from paredown.modifiers.quantization.layers.shared_codes import levels_of
from paredown.modifiers.quantization.numbers.tied_values import tied
from paredown.modifiers.quantization.post_training import Samples

__all__ = ["WeightClustering"]

#: share of the window after which elements stay with their values
LAST_CHANGE = 0.75
#: why weights per tensor before a batch-norm are left alone
MOVING = "its one scale is that of the weight folded with the batch-norm behind it, which moves: granularity: channel"


class WeightClustering(Recalibrating, TargetedModifier):
    """Weight clustering (Deep Compression: Han, Mao & Dally, 2015, arXiv:1510.00149): few values a layer, trained.

    At ``start`` one-dimensional k-means finds the values, at most ``clusters`` of a weight, and each of its elements
    gets the nearest. Zeros stay zero, and 0 is then one of the values. With ``data`` squared errors are weighted by the
    second moments of the inputs that they are multiplied by (SqueezeLLM, arXiv:2306.07629, weighs them by gradients).

    Then the values train: elements that share one move together, by the mean of their gradients, whatever the optimizer
    does, until the end of the run (``hold``). What another modifier prunes becomes zero; what it lets grow again joins
    the nearest value. Biases and other vectors are left as they are.

    Where a quantizer of the recipe has the weights too, before or after, the values are found among its codes: one list
    of at most ``clusters`` codes for the whole weight, times the quantizer's scales, a channel's or a group's, which
    are kept from then on. Then the file has integers, and few different ones.
    """

    example: ClassVar = {}
    claims: ClassVar = frozenset({"values"})
    follows: ClassVar = frozenset({"zeros", "structure"})
    after: ClassVar = frozenset({"zeros", "structure", "weights", "scale between layers"})
    kinds: ClassVar = LAYERS
    state_type: ClassVar = Clusters

    proposals: ClassVar = tuple(
        Proposal("values", f"{clusters} values a layer", {"clusters": clusters}, trained, healed=0.2)
        for trained in (True, False)
        for clusters in (32, 16)
    )

    type: Literal["weight_clustering"] = "weight_clustering"
    clusters: Annotated[int, Strict(), Field(ge=2, le=256)] = 16
    """Most different values of a weight, 2 to 256; 0 is one of them where there are zeros."""
    every: Time | None = None
    """Distance between updates, at which values that became free are given to others. Default: a fiftieth of the
    window, at least one step."""
    gradients: Literal["shared", "own"] = "shared"
    """``shared``: elements that share a value move together, by the mean of their gradients; ``own``: for 3 quarters
    of the window each follows its own gradient in a copy that is kept beside the weight, values are the means of their
    elements' copies, and at updates elements change to nearer values (LUT-Q, arXiv:1811.05355). More accurate for 16
    values and fewer, and takes the memory of the weights again; 4 bytes each."""
    hold: bool = True
    """Keep the values shared after the window's end; false lets all weights train again."""
    weighted: bool | None = None
    """Weight squared errors by the inputs' second moments. Default: where ``data`` is given."""
    samples: Samples | None = None
    """How much of ``data`` is used for that. Default: all."""

    @property
    def update_interval(self) -> Time | None:
        return self.every

    @property
    def holds(self) -> bool:
        return self.hold

    @property
    def calibrates(self) -> bool:
        return bool(self.weighted)

    def unused_fields(self) -> Sequence[str]:
        return ["samples"] if self.weighted is False and "samples" in self.model_fields_set else []

    # -- before a run --------------------------------------------------------------------------------------------

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return [one.weight for one in self._found(training)]

    def check(self, training: Training) -> None:
        super().check(training)
        for name, module in training.targets().items():
            refuse_not_finite(name, module, "it has no clusters; nothing was changed", weight_names(module))
        if self.weighted:
            training.data.require("weighs errors by what goes into the layers:")
        self._refuse_to_be_undone(training)

    def refusal(self, training: Training, name: str, module: nn.Module) -> str | None:
        reason = reason_to_refuse(module)
        if reason is None and not any(module.get_parameter(key).numel() for key in weight_names(module)):
            return "it has no weights"
        return reason

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        targets, refused = training.targets(), self.refusals(training)
        grids = grids_beside(training, targets)
        return [
            Foreseen(name, refused[name], refused=True) if name in refused else self._foreseen(name, grids.get(name))
            for name in targets
        ]

    def _foreseen(self, name: str, grid: GridBeside | None) -> Foreseen:
        among = "values" if grid is None else f"codes among those of {grid.owner}"
        return Foreseen(name, f"at most {self.clusters} {among}", bits=math.ceil(math.log2(self.clusters)))

    def refusals(self, training: Training) -> dict[str, str]:
        targets, reasons = training.targets(), super().refusals(training)
        grids = grids_beside(training, targets)
        folded = folded_after(training) if any(_per_tensor(grid) for grid in grids.values()) else {}
        for name, grid in grids.items():
            reason = MOVING if name in folded and _per_tensor(grid) else grid.refusal
            if reason is not None:
                reasons.setdefault(name, reason)
        return reasons

    def _refuse_to_be_undone(self, training: Training) -> None:
        """Raise ScheduleError where a modifier that acts later writes the weights that share values."""
        own = {id(weight) for weight in self.claimed(training)}
        for other, view in training.later:
            if other.claims & {"weights", "scale between layers"} and any(
                id(weight) in own for weight in other.claimed(view)
            ):
                raise ScheduleError(
                    f"{training.label}: {other.name} ({other.type}) writes the same weights later, so that they would "
                    f"share values no longer: let it start no later than {self.name}"
                )

    # -- in a run ------------------------------------------------------------------------------------------------

    def on_start(self, training: Training) -> Clusters:
        self.check(training)
        training.refuse(self.refusals(training))
        return Clusters()

    def attach(self, training: Training, state: Clusters) -> None:
        self._keep_scales(training, state)
        if training.clock is not None:
            for one in self._found(training):
                training.gradients.add(one.weight, partial(_shared_gradient, state, one.weight))

    def on_update(self, training: Training, state: Clusters) -> None:
        if state.codes:
            self._settle(training, state, anew=True)
            if training.progress >= LAST_CHANGE and state.own:
                self._share_gradients(training, state)
        else:
            self._cluster(training, state, self._found(training))
            self._keep_scales(training, state)

    def settle(self, training: Training, state: Clusters) -> None:
        self._settle(training, state)

    def on_end(self, training: Training, state: Clusters) -> None:
        if not self.hold:
            vars(state).update(vars(Clusters()))
            training.gradients.remove()
            training.links.remove()

    @torch.no_grad()
    def on_finalize(self, training: Training, state: Clusters) -> None:
        """Follow batch-norms whose factors have changed their signs in training."""
        folded = folded_after(training) if state.scales and training.clock is not None else {}
        for one in self._found(training) if folded else ():
            if one.weight in state.scales:
                scale, codes = state.scales[one.weight], state.codes[one.weight]
                new = one.with_signs(scale, folded.get(one.layer))
                codes = turned(one.weight.detach(), codes, scale, new)
                state.codes[one.weight], state.scales[one.weight] = codes, new
                one.weight.copy_(tied_weight(one.weight, codes, new))

    def detach(self, training: Training, state: Clusters) -> None:
        training.gradients.remove()

    def unreached(self, training: Training, state: Clusters | None) -> str | None:
        if state is not None and (state.codes or (training.ended and not self.hold)):
            return None
        return f"0 weights share values, {len(self._found(training))} were wanted"

    def held(self, training: Training, state: Clusters) -> Sequence[nn.Parameter]:
        return list(state.codes)

    def disturbed(self, training: Training, state: Clusters, parameters: Sequence[nn.Parameter]) -> int:
        return sum(int(_is_off(weight, state).sum()) for weight in parameters)

    @torch.no_grad()
    def put_right(self, training: Training, state: Clusters, parameters: Sequence[nn.Parameter]) -> None:
        for weight in parameters:
            each, codes = state.of_each(weight), state.codes[weight]
            if weight in state.own:
                state.own[weight] = torch.where(codes != 0, each, 0)
            weight.copy_(tied_weight(each, codes, state.scale(weight)))

    @torch.no_grad()
    def conform(self, training: Training, state: Clusters, parameter: nn.Parameter, other: Tensor) -> None:
        scale = state.scale(parameter)
        codes, scale = state.codes[parameter].to(other.device), None if scale is None else scale.to(other.device)
        other.copy_(tied_weight(other, codes, scale))

    # -- inside --------------------------------------------------------------------------------------------------

    def _found(self, training: Training) -> list[WeightInLayer]:
        """The weights that are clustered, each once."""
        refused = self.refusals(training)
        found: dict[int, WeightInLayer] = {}
        for name, module in training.targets().items():
            for key in () if name in refused else weight_names(module):
                weight = module.get_parameter(key)
                found.setdefault(id(weight), WeightInLayer(name, module, key, weight))
        return list(found.values())

    def _importance(self, training: Training, found: Sequence[WeightInLayer]) -> Mapping[str, Tensor]:
        if not (training.data.repeatable if self.weighted is None else self.weighted):
            return {}
        return importance_of(training, {one.layer: one.module for one in found}, self.samples)

    def _cluster(self, training: Training, state: Clusters, found: Sequence[WeightInLayer]) -> None:
        """Find the values of all weights, then give them to them."""
        importance = self._importance(training, found)
        grids = grids_beside(training, training.targets())
        folded = folded_after(training) if any(one.layer in grids for one in found) else {}
        errors, changes = {}, []
        for one in found:
            scale, levels = self._among(one, grids.get(one.layer), folded.get(one.layer))
            weight = one.weight.detach()
            codes, new = assigned(weight, self.clusters, scale, levels, importance.get(one.layer))
            changes.append((one.weight, codes, scale, new))
            errors[one.name] = _relative_error(weight, new)
        for change in changes:
            self._commit(training, state, *change)
        training.record("cluster", weights=len(errors), largest_error=max(errors.values(), default=0.0))

    def _among(
        self, one: WeightInLayer, grid: GridBeside | None, norm: nn.Module | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The scales of a weight's elements and the levels that are their values, where there is a grid."""
        if grid is None:
            return None, None
        largest = grid.largest(self.clusters)
        return one.scale(grid.scheme, largest, norm), levels_of(grid.scheme, largest)

    @torch.no_grad()
    def _commit(
        self,
        training: Training,
        state: Clusters,
        weight: nn.Parameter,
        codes: Tensor,
        scale: Tensor | None,
        new: Tensor,
    ) -> None:
        state.codes[weight] = codes
        if scale is not None:
            state.scales[weight] = scale
        if self.gradients == "own" and training.clock is not None:
            state.own[weight] = weight.detach().clone()
            new = tied_weight(weight, codes, scale)
        else:
            tie_momenta_(training.optimizers, weight, codes, scale)
        weight.copy_(new)

    def _share_gradients(self, training: Training, state: Clusters) -> None:
        """From now on elements stay with their values, and move together."""
        state.own.clear()
        for weight, codes in state.codes.items():
            tie_momenta_(training.optimizers, weight, codes, state.scale(weight))
        training.record("share gradients")

    def _keep_scales(self, training: Training, state: Clusters) -> None:
        """Let the quantizers of these layers have the scales that the codes were found for."""
        modules = training.targets() if state.scales else {}
        for name, grid in grids_beside(training, modules).items():
            keep_scales(training.links, modules[name], state, grid.scheme)

    def _settle(self, training: Training, state: Clusters, anew: bool = False) -> None:
        """Bring what an optimizer, and others, have made of the weights back to shared values."""
        free = training.held_by_others("zeros") if state.codes else set()
        for weight in training.just_stepped_among(state.codes):
            self._settle_one(training, state, weight, id(weight) in free, anew)

    @torch.no_grad()
    def _settle_one(self, training: Training, state: Clusters, weight: nn.Parameter, regrows: bool, anew: bool) -> None:
        """Zeros become zero for good; elements that grew again, where that may be, join a value."""
        before, scale = state.codes[weight], state.scale(weight)
        each = state.of_each(weight)
        codes = torch.where(weight != 0, before, 0)
        if anew and weight in state.own:
            codes = nearer(each, codes, scale)
        if regrows:
            codes = joined(torch.where(weight != 0, each, 0), codes, scale)
        each = torch.where(codes != 0, each, 0)
        if _different(codes) > self.clusters:
            codes, _ = assigned(each, self.clusters, scale, self._levels(training, weight))
        if weight in state.own:
            state.own[weight] = each
        elif not torch.equal(codes, before):
            tie_momenta_(training.optimizers, weight, codes, scale)
        state.codes[weight] = codes
        weight.copy_(tied_weight(each, codes, scale))

    def _levels(self, training: Training, weight: nn.Parameter) -> Tensor | None:
        grids = grids_beside(training, training.targets())
        own = next((grids.get(one.layer) for one in self._found(training) if one.weight is weight), None)
        return None if own is None else levels_of(own.scheme, own.largest(self.clusters))


def _shared_gradient(state: Clusters, weight: nn.Parameter, gradient: Tensor) -> Tensor:
    if weight not in state.codes or weight in state.own:
        return gradient
    return tied(gradient, state.codes[weight], state.scale(weight))


def _different(codes: Tensor) -> int:
    return int(torch.bincount(codes.reshape(-1).long()).count_nonzero())


def _per_tensor(grid: GridBeside) -> bool:
    return grid.scheme.granularity == "tensor"


def _is_off(weight: nn.Parameter, state: Clusters) -> Tensor:
    """Where a weight is not as it is shared; scaled values may differ in their last bits."""
    wide, scale = weight.detach(), state.scale(weight)
    new = tied_weight(state.own.get(weight, wide), state.codes[weight], scale)
    if scale is None:
        return wide != new
    return (wide - new).abs() > 4 * torch.finfo(wide.dtype).eps * new.abs()


def _relative_error(weight: Tensor, new: Tensor) -> float:
    whole = float(weight.double().square().sum())
    return float((new.double() - weight.double()).square().sum()) / whole if whole else 0.0
