"""`dynamic_quantization`: weights on fixed grids; inputs are quantized by their range at run time."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from paredown.framework.model.kinds import LINEAR
from paredown.framework.modifier.proposals import Proposal
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme
from paredown.modifiers.quantization.post_training import PostTrainingQuantization


class DynamicQuantization(PostTrainingQuantization):
    """Dynamic post-training quantization: weights on fixed grids, each input on the grid of its own extremes.

    It acts once, at ``start``, and needs no data. It is what transformers and recurrent networks are usually given:
    their inputs vary from sample to sample, and finding the range costs little beside large matrix products. Embeddings
    hold codes, of which the rows that are looked up become floats. With
    ``activations: {granularity: token}`` each token has a range of its own.
    """

    example: ClassVar = {}
    kinds: ClassVar = (*LINEAR, nn.LSTM, nn.GRU, nn.RNN, nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag)
    dynamic: ClassVar = True

    proposals: ClassVar = (Proposal("grid", "weights in 8 bits, inputs in 8 bits as they come", trained=False),)

    type: Literal["dynamic_quantization"] = "dynamic_quantization"
    activations: ActivationScheme | None = ActivationScheme(observer="minmax")
    """Width and grid of the layers' inputs, whose range is that of each input itself."""
