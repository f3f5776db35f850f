"""`awq`: weights of salient inputs are enlarged before rounding, and outliers are clipped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.calibration.second_moments import SecondMoments
from paredown.framework.errors import TargetError
from paredown.framework.model.graph.fusion import Scaling, scalings
from paredown.framework.model.kinds import LINEAR
from paredown.framework.model.targets import named_modules
from paredown.framework.model.weights import weight_rows
from paredown.framework.modifier.base import Foreseen, Modifier
from paredown.framework.modifier.training import Training
from paredown.modifiers.quantization.factor_movement import objection_to_move, refuse_on_grid
from paredown.modifiers.quantization.layers.moved_scales import move_scale_
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer
from paredown.modifiers.quantization.layers.schemes import LayerSchemes
from paredown.modifiers.quantization.layers.stored import Grid
from paredown.modifiers.quantization.numbers.fake_quantize import clip_limits, rounded
from paredown.modifiers.quantization.numbers.scales import affine_parameters, weight_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import kept_scale, spread, view_for, view_of
from paredown.modifiers.quantization.weight_reconstruction import WeightReconstruction

__all__ = ["Awq", "clipped_grid", "salience"]

#: the authors' grids: exponents of the inputs' magnitudes, shares of the range after clipping
EXPONENTS = tuple(step / 20 for step in range(20))
CLIPPING = tuple(1 - step / 20 for step in range(10))


class Awq(WeightReconstruction):
    """Activation-aware weight quantization (Lin et al., 2023, arXiv:2306.00978): protect what large inputs multiply.

    Where a normalisation (or another layer) makes the inputs of several layers, a factor for each input moves from it
    into their weights (Eq. 4): mean magnitude to an exponent, of 20 tried the one whose rounded weights change the
    layers' results least. Then the range of each group is shrunken to the share with the least error of the result.
    Errors are quadratic forms of the inputs' second moments, so that no trial runs the model. Which factors can move is
    read off the model's graph (``example_inputs`` or ``data``); where none can, the range alone is chosen.

    The model computes what it did but for the rounding: weights and normalisations are rewritten together.
    """

    example: ClassVar = {"weights": {"bits": 4}}
    kinds: ClassVar = LINEAR

    type: Literal["awq"] = "awq"
    round: bool = True
    """Put the weights on their grid; false moves factors only, for ``weights`` as another modifier after it rounds them
    (``gptq``)."""

    @property
    def rewrites(self) -> bool:
        return self.round

    def check(self, training: Training) -> None:
        super().check(training)
        if not self.round:
            refuse_on_grid(training)

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return super().claimed(training) if self.round else ()

    def fixed_layers(self, training: Training) -> dict[str, tuple[nn.Module, LayerSchemes]]:
        return super().fixed_layers(training) if self.round else {}

    def objection(self, training: Training, earlier: Modifier, before: Training) -> str | None:
        alone = None if self.round else objection_to_move(training, earlier, before)
        return super().objection(training, earlier, before) or alone

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        lines = super().foresee(training)
        if self.round:
            return lines
        return [
            each if each.refused else Foreseen(each.layer, f"scaled for {each.effect}, not rounded") for each in lines
        ]

    def movable(self, training: Training, layers: Collection[str]) -> Sequence[Scaling]:
        try:
            graph = training.data.graph()
        except TargetError as error:
            training.record("no factor moved", reason=str(error))
            return ()
        places = () if graph is None else scalings(graph, layers, homogeneous=False)
        return [place for place in places if not _moves_off_its_grid(training.model, place, layers)]

    def move(
        self,
        training: Training,
        places: Sequence[Scaling],
        schemes: Mapping[str, WeightScheme],
        moments: Mapping[str, SecondMoments],
    ) -> Mapping[str, SecondMoments]:
        adjusted = dict(moments)
        for scaling in places:
            s = _best_scale(training, scaling, schemes, adjusted)
            move_scale_(training.model, scaling, s)
            adjusted.update({name: _scaled_down(adjusted[name], s) for name, _ in scaling.after})
        return adjusted

    def reconstructed(self, weight: Tensor, moments: SecondMoments, scheme: WeightScheme) -> tuple[Tensor, Grid]:
        grid = clipped_grid(weight, moments.matrix, scheme)
        scale, zero_point = spread(grid.scale, scheme), spread(grid.zero_point, scheme)
        return _on_grid(view_for(weight, scheme), scale, zero_point, scheme).reshape(weight.shape), grid


def _moves_off_its_grid(model: nn.Module, place: Scaling, layers: Collection[str]) -> bool:
    """Whether a factor would be taken from a layer that an earlier modifier has on a grid, and that stays there."""
    owners = {name.rpartition(".")[0] for name, _ in place.before} - set(layers)
    links = [weight_quantizer(named_modules(model)[owner]) for owner in owners]
    return any(link is not None and link.fixed for link in links)


def salience(magnitude: Tensor, exponent: float) -> Tensor:
    """The factor for each input: its mean magnitude to an exponent, centred around 1.

    Args:
        magnitude: (n,), means of absolute values.
        exponent: 0 (no scaling) to 1.
    """
    s = magnitude.clamp(min=1e-4).pow(exponent)
    return s / (s.max() * s.min()).sqrt()


def clipped_grid(weight: Tensor, moments: Tensor, scheme: WeightScheme) -> Grid:
    """The grid, as kept, with the range of each group shrunken to the share with the least error of the result.

    Args:
        weight: (out, n).
        moments: (1, n, n) of the inputs; of these the blocks of each group count.
    """
    start = Grid(*weight_parameters(weight, scheme))
    if scheme.granularity not in ("group", "channel"):
        return start
    view, shared = view_of(weight, scheme)
    low, high = view.amin(shared, keepdim=True), view.amax(shared, keepdim=True)
    size = view.shape[-1]
    blocks = torch.stack([moments[0][at : at + size, at : at + size] for at in range(0, weight.shape[1], size)])
    best, least = affine_parameters(low, high, scheme), None
    for share in CLIPPING:
        grid = affine_parameters(low * share, high * share, scheme)
        error = _group_errors(view, *grid, blocks, scheme)
        better = error < least if least is not None else torch.ones_like(error, dtype=torch.bool)
        best = torch.where(better, grid[0], best[0]), torch.where(better, grid[1], best[1])
        least = error if least is None else torch.minimum(error, least)
    return Grid(kept_scale(best[0], scheme), kept_scale(best[1], scheme))


def _group_errors(view: Tensor, scale: Tensor, zero_point: Tensor, blocks: Tensor, scheme: WeightScheme) -> Tensor:
    difference = _on_grid(view, scale, zero_point, scheme) - view
    rows = difference.reshape(view.shape[0], len(blocks), -1).transpose(0, 1)
    return (torch.bmm(rows, blocks.to(rows.dtype)) * rows).sum(2).t().reshape(scale.shape)


def _best_scale(
    training: Training, scaling: Scaling, schemes: Mapping[str, WeightScheme], moments: Mapping[str, SecondMoments]
) -> Tensor:
    """The factor with the least error of the results of all layers that it goes into."""
    modules = named_modules(training.model)
    layers = [(weight_rows(modules[name]), name) for name, _ in scaling.after]
    candidates = [salience(moments[layers[0][1]].magnitude[0], exponent) for exponent in EXPONENTS]
    errors = []
    for s in candidates:
        each = [_scaled_error(weight, s, moments[name].matrix[0], schemes[name]) for weight, name in layers]
        errors.append(torch.stack(each).sum())
    return candidates[int(torch.stack(errors).argmin())]


def _scaled_error(weight: Tensor, s: Tensor, moments: Tensor, scheme: WeightScheme) -> Tensor:
    larger = weight * s
    scale, zero_point = (spread(part, scheme) for part in weight_parameters(larger, scheme))
    view = view_for(larger, scheme)
    difference = (_on_grid(view, scale, zero_point, scheme).reshape(weight.shape) - larger) / s
    return ((difference @ moments.to(difference.dtype)) * difference).sum()


def _on_grid(view: Tensor, scale: Tensor, zero_point: Tensor, scheme: WeightScheme) -> Tensor:
    low, high = clip_limits(scale, zero_point, scheme)
    return rounded(torch.clamp(view, low, high), scale, scheme, stochastic=False, clip=False)


def _scaled_down(moments: SecondMoments, s: Tensor) -> SecondMoments:
    return SecondMoments(
        moments.matrix / torch.outer(s, s), moments.mean / s, moments.magnitude / s.abs(), moments.count
    )
