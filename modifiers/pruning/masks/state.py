"""The state of a modifier that keeps zeros in place: its masks, by parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.distributed.shards import any_of_parts, is_sharded, own_part, whole_of_part
from paredown.framework.errors import TargetError
from paredown.framework.model.kinds import LINEAR
from paredown.framework.model.weights import COMPUTED
from paredown.framework.modifier.training import Training
from paredown.framework.storage.bits import pack_bits, unpack_bits
from paredown.framework.storage.state import PerParameter
from paredown.modifiers.pruning.masks.apply import apply_masks_, converted, fast_mask, fits, to_bool
from paredown.modifiers.pruning.scoring.criterion import Watched
from paredown.modifiers.pruning.scoring.gradients import step_gradients
from paredown.modifiers.pruning.selection.chunks import chunks

__all__ = ["PRUNABLE", "MaskState", "Masks", "refuse_nan_gradients", "weights_of"]


#: the layers whose weights can be pruned in place
PRUNABLE = (*LINEAR, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase)


class Masks(PerParameter):
    """Masks of either form (`paredown.modifiers.pruning.masks.apply`); one bit a weight in a checkpoint."""

    def encode(self, tensor: Tensor, parameter: nn.Parameter) -> dict[str, Any]:
        keep, compact = to_bool(tensor), tensor.dtype == torch.bool
        if is_sharded(parameter):
            return {"keep": whole_of_part(keep, parameter), "compact": compact}
        return {**pack_bits(keep), "compact": compact}

    def decode(self, plain: Any, parameter: nn.Parameter) -> Tensor:
        keep = own_part(plain["keep"]) if "keep" in plain else unpack_bits(plain)
        return converted(keep if plain["compact"] else fast_mask(keep), parameter)

    def apply_(self, only: Sequence[nn.Parameter] | None = None) -> None:
        """Zero what is masked, in place, of all weights or only some; a mask follows a weight that was moved or
        cast."""
        weights = list(self if only is None else only)
        apply_masks_(weights, [self._fitting(weight) for weight in weights])

    def not_zero(self, weight: nn.Parameter) -> int:
        """How many weights that are masked are not zero; of a weight that is split among processes, here."""
        mask = self._fitting(weight)
        return sum(int(((part != 0) & ~to_bool(kept)).sum()) for part, kept in chunks(own_part(weight), mask))

    def _fitting(self, weight: nn.Parameter) -> Tensor:
        if not fits(self[weight], weight):
            self[weight] = converted(self[weight], weight)
        return self[weight]


@dataclass
class MaskState:
    """The masks, and the share of zeros that they were made for.

    Attributes:
        masks: by weight.
        share: of zeros.
        watched: what a criterion has gathered.
        deviations: by layer, how far its share lies from the whole's, where that was found once and is kept.
        copies: under which names optimizers keep what they write back into weights; None: not known yet.
    """

    masks: Masks = field(default_factory=Masks)
    share: float = 0.0
    watched: Watched = field(default_factory=Watched)
    deviations: dict[str, float] = field(default_factory=dict)
    copies: list[str] | None = None


def weights_of(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The weights of modules, each once, by parameter name: matrices and kernels, no biases.

    An attention has its projections of the inputs beside ``out_proj``, a recurrent layer the weights of all its layers
    and directions.

    Raises:
        TargetError: a weight is no plain parameter (weight_norm, LoRA and other parametrizations).
    """
    weights: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in modules.items():
        for key in _weight_names(module):
            weight = module._parameters.get(key)
            if weight is None:
                raise TargetError(
                    f"{name}: {COMPUTED}, so zeros would not last: merge it first, or add the layer to ignore"
                )
            if id(weight) not in seen:
                seen.add(id(weight))
                weights[f"{name}.{key}" if name else key] = weight
    return weights


def _weight_names(module: nn.Module) -> list[str]:
    if isinstance(module, nn.RNNBase):
        return [key for keys in module._all_weights for key in keys if key.startswith("weight")]
    if isinstance(module, nn.MultiheadAttention):
        own = ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
        return ["in_proj_weight"] if module._qkv_same_embed_dim else own
    return ["weight"]


def refuse_nan_gradients(training: Training, weights: Mapping[str, nn.Parameter]) -> None:
    """Raise TargetError, naming the parameter, where a gradient is NaN at a pruning step."""
    for name, gradient in ({} if training.catching_up else step_gradients(weights)).items():
        part = own_part(gradient)
        if any_of_parts(bool(part.numel()) and bool(part.max().isnan()), gradient):
            raise TargetError(
                f"the gradient of {name} contains NaN at step {training.step}: nothing was pruned; look for a loss "
                "that is not finite"
            )
