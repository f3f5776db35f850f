"""`head_pruning`: attention heads of low worth leave the model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict

from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.removal.channel_removal import ChannelRemoval
from paredown.modifiers.pruning.removal.channel_view import ChannelView, look

__all__ = ["HeadPruning"]


class HeadPruning(ChannelRemoval):
    """Head pruning (Michel, Levy & Neubig, 2019, arXiv:1905.10650): whole attention heads are removed.

    A head goes with its rows of the query, key and value projections, its columns of the output projection, and its
    biases of positions; where queries share keys and values (grouped-query attention, arXiv:2305.13245), a group goes
    as one. Which channels are a head's is read from the model's graph (``example_inputs`` or ``data`` are needed), also
    for attention written by hand. Each cut is tried out first, as in ``channel_pruning``; attributes such as
    ``num_heads`` follow. ``torch.nn.MultiheadAttention`` takes the width of its heads from its input and is left alone.

    A head's worth is the mean of the criterion's scores over all of its weights; the paper's is ``taylor``.
    """

    example: ClassVar = {"final_sparsity": 0.5}

    type: Literal["head_pruning"] = "head_pruning"
    round_to: Annotated[int, Strict(), Field(ge=1)] = 1
    """What stays of a layer is a multiple of so many channels; a head has many."""

    def view(self, training: Training) -> ChannelView:
        return look(training, self.ignore, heads=True)
