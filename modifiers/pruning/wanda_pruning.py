"""`wanda_pruning`, and the criterion `wanda`: weights of small magnitude times input norm become zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.calibration.second_moments import mean_squares
from paredown.framework.calibration.streaming import Unit
from paredown.framework.model.targets import named_modules
from paredown.framework.model.weights import WeightLayout, refuse_not_finite
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.masks.rows import Goal
from paredown.modifiers.pruning.scoring.criterion import Criterion, CriterionModifier, Watched
from paredown.modifiers.pruning.scoring.units import Pattern
from paredown.modifiers.pruning.selection.chunks import shared_out, smallest_in_rows
from paredown.modifiers.pruning.streamed.base import Damping, StreamedPruning
from paredown.modifiers.pruning.streamed.least_squares import refitted

__all__ = ["WandaCriterion", "WandaPruning", "wanda_scores"]


def wanda_scores(weight: Tensor, moments: Tensor) -> Tensor:
    """|w| times the root mean square of its input (Sun et al., 2023, arXiv:2306.11695, equation 1).

    The paper's norm ||X||_2 is this times the root of the number of inputs, which is the same within a layer.

    Args:
        weight: (out, ...), n weights an output channel.
        moments: (groups, n), the mean of x^2; the output channels of a group follow each other.

    Returns:
        of the weight's shape, in the type of ``moments``.

    >>> wanda_scores(torch.tensor([[1.0, -2.0]]), torch.tensor([[9.0, 1.0]]))
    tensor([[3., 2.]])
    """
    rows = weight.detach().to(moments.dtype).reshape(len(moments), -1, moments.shape[1])
    return (rows.abs() * moments.sqrt()[:, None]).reshape(weight.shape)


class WandaCriterion(Criterion):
    """`wanda_scores` of the model as it is, on all of the data, for weights of Linear, Conv1D, Conv1d and Conv2d."""

    needs: ClassVar = "data"

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        layers = _layers_of(training, weights)
        for layer in layers:
            refuse_not_finite(layer, named_modules(training.model)[layer], "it has no score")
        moments: dict[str, Tensor] = {}
        unit = Unit(tuple(layers), lambda: training.data.run())
        for layer, squares in mean_squares(training, unit).items():
            moments[layers[layer]] = moments.get(layers[layer], 0) + squares
        layouts = {name: WeightLayout.of(named_modules(training.model)[layer]) for layer, name in layers.items()}
        return {
            name: layouts[name].kept(wanda_scores(layouts[name].rows(weights[name]), squares))
            for name, squares in moments.items()
        }


class WandaPruning(StreamedPruning, CriterionModifier):
    """Wanda (Sun et al., 2023, arXiv:2306.11695): one-shot pruning by |weight| x norm of its input, output by output.

    Of each output's weights the same share goes, those with the smallest product; no weight is changed otherwise, which
    makes it the fastest of the methods that look at data. With N:M, every M neighbours of an output compete. The model
    runs block by block, each on what the pruned blocks before it give out.

    Of a layer's n weights exactly floor(share x n + 1/2) are zero, outputs differing by one at most. Zeros that are
    there stay and count. Layers whose weight is tied to another are left alone.
    """

    example: ClassVar = {"final_sparsity": 0.5}
    way: ClassVar = "those of each output that carry least"

    type: Literal["wanda_pruning"] = "wanda_pruning"
    update_weights: bool = False
    """Solve again for the weights that stay, by least squares, so that the layer gives what it gave; costs a system
    of the size of what stays, for each output."""
    damping: Damping = 0.01
    """With ``update_weights``: what is added to the diagonal of the inputs' second moments, as a share of its mean."""

    @classmethod
    def default_criterion(cls) -> Criterion:
        return WandaCriterion()

    def unused_fields(self) -> list[str]:
        idle = ["damping"] if not self.update_weights and "damping" in self.model_fields_set else []
        return [*super().unused_fields(), *idle]

    def moments(self, training: Training, unit: Unit) -> Mapping[str, Tensor]:
        return super().moments(training, unit) if self.update_weights else mean_squares(training, unit)

    def pruned_rows(self, rows: Tensor, moments: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        squares = moments if moments.dim() == 2 else moments.diagonal(dim1=1, dim2=2)
        pruned = _least_carrying(rows, squares, goal)
        return rows if moments.dim() == 2 else refitted(rows, pruned, moments, self.damping), pruned


def _least_carrying(rows: Tensor, squares: Tensor, goal: Goal) -> Tensor:
    zero = rows == 0
    scores = wanda_scores(rows, squares).masked_fill_(zero, -1)
    if isinstance(goal, Pattern):
        return goal.removable(scores) | zero
    least = zero.sum(1)
    sizes = torch.full_like(least, rows.shape[1])
    return smallest_in_rows(scores, shared_out(max(goal, int(least.sum())), sizes, least))


def _layers_of(training: Training, weights: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """The layers that multiply their input by one of the weights, and that one's name."""
    names = {id(weight): name for name, weight in weights.items()}
    return {
        layer: names[id(module._parameters["weight"])]
        for layer, module in named_modules(training.model).items()
        if isinstance(module, WandaPruning.kinds) and id(module._parameters.get("weight")) in names
    }
