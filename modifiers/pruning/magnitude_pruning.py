"""`magnitude_pruning`: the weights of smallest absolute value become zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import nn

from paredown.framework.curves import Curve, curve_value, share_of
from paredown.framework.modifier import Foreseen, Share, TargetedModifier
from paredown.framework.time import Time
from paredown.framework.training import Training
from paredown.modifiers.pruning.mask_state import Masks, MaskState, refuse_nan_gradients, weights_of
from paredown.modifiers.pruning.masks import MaskForm, prune_at_, to_bool
from paredown.modifiers.pruning.selection import find_threshold


class MagnitudePruning(TargetedModifier):
    """Gradual magnitude pruning: the weights of smallest absolute value become zero, and stay zero.

    The share of zeros moves along ``curve`` over the window, cubic by default (Zhu & Gupta, 2017, arXiv:1710.01878,
    equation 1), and reaches ``final_sparsity`` exactly: of n weights, floor(share x n + 1/2) are zero, ties broken by
    index. Zeros are kept in place: names and shapes in ``state_dict()`` do not change, and pruned weights are zero
    again after every optimizer step, momentum and weight decay notwithstanding.

    ``scope: global`` ranks all target weights together, so that layers which can spare more lose more;
    ``scope: local`` takes the same share from each layer.
    """

    example: ClassVar = {"final_sparsity": 0.5}
    claims: ClassVar = frozenset({"zeros"})
    kinds: ClassVar = (nn.Linear, nn.modules.conv._ConvNd)
    state_type: ClassVar = MaskState

    type: Literal["magnitude_pruning"] = "magnitude_pruning"
    every: Time | None = None
    """Distance between updates. Default: a fiftieth of the window, at least one step."""
    hold: bool = True
    """Keep the zeros after the window's end; false lets the pruned weights train again, from zero."""
    initial_sparsity: Share = 0.0
    """Share of zeros at the start of the window."""
    final_sparsity: Share
    """Share of zeros from the end of the window on."""
    curve: Curve = "cubic"
    """How the share moves over the window."""
    scope: Literal["global", "local"] = "global"
    """What competes: all targets together, or each one for itself."""
    masks: MaskForm = "fast"
    """Speed against memory: 4 bytes a float32 weight (``fast``), or 1 (``compact``)."""

    def unused_fields(self) -> Sequence[str]:
        level = self.curve == "constant" or not isinstance(self.curve, str)
        return ["initial_sparsity"] if level and "initial_sparsity" in self.model_fields_set else []

    def check(self, training: Training) -> None:
        weights_of(training.targets(self))

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        weights = weights_of(training.targets(self))
        total = sum(weight.numel() for weight in weights.values())
        count = share_of(self.final_sparsity, total)
        scope = f"of {total} together" if self.scope == "global" else "of each layer"
        return [
            Foreseen(name.removesuffix(".weight"), f"{self.final_sparsity:.4g} {scope} zero", density=1 - count / total)
            for name in weights
        ]

    def on_start(self, training: Training) -> MaskState:
        held = [to_bool(mask) for mask in training.inherited.values()]
        total = sum(weight.numel() for weight in weights_of(training.targets(self)).values())
        return MaskState(Masks(training.inherited), sum(int((~keep).sum()) for keep in held) / total)

    def on_update(self, training: Training, state: MaskState) -> None:
        share = curve_value(self.curve, training.progress(self), self.initial_sparsity, self.final_sparsity)
        if isinstance(self.curve, str):
            share = max(share, min(state.share, self.final_sparsity))  # what is zero already is not given back
        weights = weights_of(training.targets(self))
        refuse_nan_gradients(training, weights)
        state.masks = self._pruned(weights, share)
        state.share = share
        training.record(self, "update", sparsity=share)

    def on_step(self, training: Training, state: MaskState) -> None:
        state.masks.apply_()

    def on_finalize(self, training: Training, state: MaskState) -> None:
        if self.hold:  # weights may have been loaded since the last step
            state.masks.apply_()

    def unreached(self, training: Training, state: MaskState | None) -> str | None:
        reached = 0.0 if state is None else state.share
        return f"sparsity {reached:.4g} was reached, {self.final_sparsity:.4g} was wanted"

    def _pruned(self, weights: dict[str, nn.Parameter], share: float) -> Masks:
        names, tensors = list(weights), list(weights.values())
        groups = [(names, tensors)] if self.scope == "global" else [([n], [t]) for n, t in weights.items()]
        thresholds = [
            find_threshold(group, share_of(share, sum(tensor.numel() for tensor in group)), names=of)
            for of, group in groups
        ]
        masks = Masks()
        for (_, group), threshold in zip(groups, thresholds, strict=True):
            masks.update(zip(group, prune_at_(group, threshold, form=self.masks), strict=True))
        return masks
