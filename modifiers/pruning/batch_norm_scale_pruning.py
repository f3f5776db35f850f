"""`batch_norm_scale_pruning`: channels that their batch-norm scales down become zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.errors import ScheduleError, TargetError
from paredown.framework.model.graph.fusion import batch_norms_after
from paredown.framework.model.targets import named_modules
from paredown.framework.model.weights import WeightLayout
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.gradual_pruning import GradualPruning
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched
from paredown.modifiers.pruning.scoring.prunable import layer_of
from paredown.modifiers.pruning.scoring.units import StructureField

__all__ = ["BatchNormScaleCriterion", "BatchNormScalePruning"]


class BatchNormScalePruning(GradualPruning):
    """Network slimming (Liu et al., 2017, arXiv:1708.06519): channels go by the scale of the batch-norm behind them.

    An output channel of a convolution is worth abs(gamma) of the batch-norm that alone reads it, found in the model's
    graph (``example_inputs`` or ``data`` are needed for that). The paper adds an L1 penalty on gamma to the loss, which
    is the loop's to add. Convolutions without such a batch-norm have no worth here: leave them out of ``targets``.
    ``channel_pruning`` with ``criterion: batch_norm_scale`` removes the channels.
    """

    example: ClassVar = {"final_sparsity": 0.5, "targets": ["stem"]}
    kinds: ClassVar = (nn.modules.conv._ConvNd,)

    type: Literal["batch_norm_scale_pruning"] = "batch_norm_scale_pruning"
    structure: StructureField = "channel"
    """What is removed together: channels, unless said otherwise."""

    @property
    def ranking(self) -> Criterion:
        return BatchNormScaleCriterion()


@dataclass(frozen=True)
class BatchNormScaleCriterion(Criterion):
    """abs(gamma) of the batch-norm behind a convolution; in physical pruning also that of the batch-norm itself."""

    needs: ClassVar = "model"
    outputs_only: ClassVar = True

    def check(self, training: Training) -> None:
        if not training.data.has_example:
            raise ScheduleError(
                f"{training.label} looks for the batch-norm behind each convolution in the model's "
                "graph: give example_inputs= or data="
            )

    def start(self, training: Training, weights: Mapping[str, nn.Parameter]) -> Watched:
        graph = training.data.graph()
        return Watched(partners={} if graph is None else batch_norms_after(graph))

    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        modules, found = named_modules(training.model), watched.partners
        scores = {}
        for name, weight in weights.items():
            layer = layer_of(name)
            if layer in found:
                scores[name] = _over_channels(modules[found[layer]], weight, modules[layer])
        if not scores:
            raise TargetError(
                f"{training.name}: no batch-norm that alone reads one of {', '.join(weights)} was found in the model's "
                "graph; it is traced for example_inputs= or data="
            )
        return scores


def _over_channels(norm: nn.Module, weight: Tensor, module: nn.Module) -> Tensor:
    gamma = norm.get_parameter("weight").detach().abs().to(torch.promote_types(weight.dtype, torch.float32))
    layout = WeightLayout.of(module)
    rows = layout.rows(weight.detach())
    return layout.kept(gamma.view(-1, *[1] * (rows.dim() - 1)).expand(rows.shape))
