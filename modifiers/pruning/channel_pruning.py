"""`channel_pruning`: channels of low worth leave the model, with everything that depends on them."""

from __future__ import annotations

from typing import ClassVar, Literal

from paredown.framework.modifier.proposals import Proposal
from paredown.modifiers.pruning.removal.channel_removal import ChannelRemoval

__all__ = ["ChannelPruning"]


class ChannelPruning(ChannelRemoval):
    """Structured pruning that shrinks: output channels are removed, with everything that only goes together with them.

    What goes together (layers joined by residuals, batch-norms, the inputs of the layers behind, gates, the halves of
    a split) is read from the model's graph (``example_inputs`` or ``data`` are needed), as in dependency graphs (Fang
    et al., 2023, arXiv:2301.12900), but by executing the graph on labels of channels. A target means its output
    channels; a group without an output of a target stays, and what is coupled to it shrinks along, unless it is
    ignored. Of an attention only whole heads go. Channels over which a normalisation averages (the residual stream of
    a transformer) stay, since without one of them all others would change.

    A cut is tried out first: with fewer channels the model has to give what it gives with zeros in their place. Where
    it does not, the group is left alone, with the reason in the plan and in the events. Parameters shrink in place,
    the optimizer's momenta with them, and sizes that modules keep (``out_channels``, ``num_features``, ``heads``)
    follow. Afterwards the model is an ordinary smaller one; a checkpoint of it loads into a freshly built original
    model through the recipe, and a Hugging Face model's config follows where it can say the new sizes.

    A channel's worth is the mean of the criterion's scores over all of its weights in all layers of the group
    (magnitude: Li et al., 2016, arXiv:1608.08710). Without ``every`` it acts once, at ``start``; with it a share goes
    at each update, with training in between.
    """

    example: ClassVar = {"final_sparsity": 0.5, "round_to": 1}

    proposals: ClassVar = tuple(
        Proposal("shape", f"{share:.0%} of the channels removed", {"final_sparsity": share}, trained, healed=0.25,
                 durations={"every": 0.2} if trained else {})
        for trained, shares in ((True, (0.15, 0.3, 0.4, 0.5, 0.6)), (False, (0.1, 0.2, 0.3)))
        for share in shares
    )  # fmt: skip

    type: Literal["channel_pruning"] = "channel_pruning"
