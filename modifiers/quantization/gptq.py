"""`gptq`: weights rounded one column at a time, while the rest of the row compensates for each error."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor

from paredown.framework.calibration.second_moments import SecondMoments, inverse_factor
from paredown.modifiers.quantization.layers.stored import Grid
from paredown.modifiers.quantization.numbers.fake_quantize import clip_limits
from paredown.modifiers.quantization.numbers.formats import FLOAT_FORMATS, round_float_
from paredown.modifiers.quantization.numbers.scales import weight_parameters
from paredown.modifiers.quantization.numbers.scheme import WeightScheme
from paredown.modifiers.quantization.numbers.weight_layout import spread, view_for
from paredown.modifiers.quantization.weight_reconstruction import WeightReconstruction

__all__ = ["Gptq", "gptq_weight"]

#: columns whose errors reach the rest of the matrix in one product
BLOCK = 128


class Gptq(WeightReconstruction):
    """GPTQ (Frantar et al., 2022, arXiv:2210.17323): rounding that keeps what the layer gives out on real inputs.

    The weights of a layer are rounded one input after the other; the error of each is spread over the inputs that are
    still to come, by the inverse of the inputs' second moments (algorithm 1 of the paper, its block updates included).
    Inputs that matter most come first (``activation_order``). The model runs block by block, each on what the rounded
    blocks before it give out, so that the memory is that of one block. Weights that are zero stay zero: a pruned model
    keeps its pattern, and the others make up for the zeros' errors too.

    The new weights are written into the model (they lie on the grid); the old ones are gone. Layers whose weight is
    tied to another (an output head that is the embedding) are left alone.
    """

    example: ClassVar = {"weights": {"bits": 4}}

    type: Literal["gptq"] = "gptq"
    activation_order: bool = True
    """Round the inputs with the largest second moment first; a group's scale is then that of the original weights."""
    damping: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] = 0.01
    """What is added to the diagonal of the second moments, as a share of its mean."""

    def reconstructed(self, weight: Tensor, moments: SecondMoments, scheme: WeightScheme) -> tuple[Tensor, Grid]:
        grid = Grid(*weight_parameters(weight, scheme))
        return gptq_weight(weight, moments.matrix, grid, scheme, self.activation_order, self.damping), grid


def gptq_weight(
    weight: Tensor,
    moments: Tensor,
    grid: Grid,
    scheme: WeightScheme,
    activation_order: bool = True,
    damping: float = 0.01,
) -> Tensor:
    """The weight on the grid that GPTQ chooses, in the shape and type of ``weight``.

    Args:
        weight: (out, ...), n weights an output channel.
        moments: (groups, n, n), the inputs' second moments; the output channels of a group follow each other.
        grid: scale and zero point of the weight, as kept.
        scheme: the grid's.
        activation_order: columns in falling order of their second moment.
        damping: share of the mean diagonal that is added to it.
    """
    rows = weight.reshape(weight.shape[0], -1)
    scale, zero_point = (_as_rows(part, weight, scheme) for part in (grid.scale, grid.zero_point))
    groups = zip(*(each.chunk(moments.shape[0]) for each in (rows, scale, zero_point)), moments, strict=True)
    done = [_one_group(r, s, z, m, scheme, activation_order, damping) for r, s, z, m in groups]
    return torch.cat(done).reshape(weight.shape).to(weight.dtype)


def _one_group(
    rows: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    moments: Tensor,
    scheme: WeightScheme,
    activation_order: bool,
    damping: float,
) -> Tensor:
    """Algorithm 1, transposed: a row of ``columns`` is an input of all output channels."""
    order = moments.diagonal().argsort(descending=True, stable=True) if activation_order else None
    columns, scales, zero_points = (
        (each if order is None else each[:, order]).t().contiguous() for each in (rows, scale, zero_point)
    )
    factor = inverse_factor(moments if order is None else moments[order][:, order], damping)
    kept = columns != 0
    low, high = clip_limits(scales, zero_points, scheme)
    columns = columns.to(scales.dtype)
    for start in range(0, len(columns), BLOCK):
        block = slice(start, start + BLOCK)
        errors = torch.empty_like(columns[block])
        own = factor[block, block]
        for place in range(len(errors)):
            at = start + place
            column = columns[at].addmv(errors[:place].t(), own[:place, place], alpha=-1) if place else columns[at]
            new = _nearest(column, scales[at], low[at], high[at], scheme) * kept[at]
            torch.div(column - new, own[place, place], out=errors[place])
            columns[at] = new
        columns[start + BLOCK :].addmm_(factor[block, start + BLOCK :].t(), errors, alpha=-1)
    return (columns if order is None else columns[order.argsort()]).t()


def _nearest(column: Tensor, scale: Tensor, low: Tensor, high: Tensor, scheme: WeightScheme) -> Tensor:
    scaled = column.clamp(low, high).div_(scale)
    if scheme.format == "int":
        scaled.round_()
    else:
        round_float_(scaled, FLOAT_FORMATS[scheme.format])
    return scaled.mul_(scale)


def _as_rows(part: Tensor, weight: Tensor, scheme: WeightScheme) -> Tensor:
    """A kept scale or zero point, one for each weight: (out, n)."""
    view = view_for(weight, scheme)
    return spread(part, scheme).expand(view.shape).reshape(weight.shape[0], -1)
