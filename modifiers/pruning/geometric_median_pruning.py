"""`geometric_median_pruning`: channels that other channels can replace become zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.model.targets import named_modules
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.gradual_pruning import GradualPruning
from paredown.modifiers.pruning.masks.scope import ScopeField
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched
from paredown.modifiers.pruning.scoring.prunable import layer_of
from paredown.modifiers.pruning.scoring.units import StructureField, output_first

__all__ = ["GeometricMedianCriterion", "GeometricMedianPruning", "distances_to_others"]


class GeometricMedianPruning(GradualPruning):
    """FPGM (He et al., 2018, arXiv:1811.00250): channels near the geometric median of their layer are redundant.

    An output channel is worth the sum of its Euclidean distances to the layer's other channels (equation 8), so what
    goes is what the others resemble most, not what is smallest. Distances of different layers do not compare: the
    scope is ``local`` unless said otherwise.
    """

    example: ClassVar = {"final_sparsity": 0.5}

    type: Literal["geometric_median_pruning"] = "geometric_median_pruning"
    structure: StructureField = "channel"
    """What is removed together: channels, unless said otherwise."""
    scope: ScopeField = "local"
    """What competes: each layer for itself, unless said otherwise."""

    @property
    def ranking(self) -> Criterion:
        return GeometricMedianCriterion()


@dataclass(frozen=True)
class GeometricMedianCriterion(Criterion):
    """The sum of the distances to the other channels, spread evenly over a channel's weights."""

    outputs_only: ClassVar = True
    relative: ClassVar = True

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        modules = named_modules(training.model)
        scores = {}
        for name, weight in weights.items():
            if weight.dim() > 1:
                module = modules[layer_of(name)]
                rows = output_first(weight.detach(), module)
                distances = distances_to_others(rows.flatten(1)).view(-1, *[1] * (rows.dim() - 1))
                scores[name] = output_first(distances.expand(rows.shape), module)
        return scores


def distances_to_others(rows: Tensor) -> Tensor:
    """The sum of each row's Euclidean distances to all others, float32 or wider: (n,) of (n, k).

    >>> distances_to_others(torch.tensor([[0.0], [1.0], [5.0]]))
    tensor([6., 5., 9.])
    """
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
