"""`weight_quantization`: weights of a trained model rounded to the nearest number of the grid."""

from __future__ import annotations

from typing import ClassVar, Literal

from paredown.framework.modifier.proposals import Proposal
from paredown.modifiers.quantization.post_training import PostTrainingQuantization


class WeightQuantization(PostTrainingQuantization):
    """Weights in few bits, rounded to the nearest; inputs stay in floating point.

    It acts once, at ``start``, needs no data, and makes the file small. Int8 per channel costs next to nothing; at 4
    bits give groups (``{bits: 4, group_size: 64}``), and where that is not enough use ``gptq``, ``awq`` or
    ``half_quadratic``, which choose the roundings. The grid is that of the weights at ``start``; in a training run they
    go on training on it, and are clipped to it.
    """

    example: ClassVar = {}

    proposals: ClassVar = (Proposal("grid", "weights in 8 bits", trained=False),)

    type: Literal["weight_quantization"] = "weight_quantization"
