"""`static_quantization`: weights and inputs of a trained model on fixed grids, from calibration data."""

from __future__ import annotations

from typing import ClassVar, Literal

from paredown.framework.modifier.proposals import Proposal
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme
from paredown.modifiers.quantization.post_training import PostTrainingQuantization


class StaticQuantization(PostTrainingQuantization):
    """Static post-training quantization (Jacob et al., 2017, arXiv:1712.05877): fixed grids for weights and inputs.

    It acts once, at ``start``: all of ``data``, or the first ``samples`` of it, runs through the model, an observer
    takes the range of every layer's input, and from then on weights and inputs are rounded to their grids. Where a
    convolution's result goes into an addition or an average pooling, that result is quantized too, so that an integer
    engine can fuse the convolution; this is read off the model's graph, which needs ``example_inputs`` or ``data``.
    """

    example: ClassVar = {}

    proposals: ClassVar = (Proposal("grid", "weights and inputs in 8 bits", trained=False),)

    type: Literal["static_quantization"] = "static_quantization"
    activations: ActivationScheme | None = ActivationScheme(observer="minmax")
    """Width and grid of the layers' inputs; null leaves them as they are."""
