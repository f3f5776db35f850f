"""`attention_distillation`: the student's attention matches the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor

from paredown.framework.auxiliary.losses import Pass
from paredown.framework.errors import TargetError
from paredown.framework.modifier.curves import Number, ScheduledNumber
from paredown.framework.modifier.training import Training
from paredown.modifiers.distillation.layer_pairs import Difference, Layers, Paired
from paredown.modifiers.distillation.losses.attention import (
    attention_distribution_loss,
    attention_squared_loss,
    attention_transfer_loss,
    relation_loss,
)
from paredown.modifiers.distillation.signals.features import hidden_state, tokens_that_count

__all__ = ["AttentionDistillation"]


class AttentionDistillation(Paired):
    """Paying more attention to attention (Zagoruyko & Komodakis, 2017, arXiv:1612.03928), and the attention of
    transformers (TinyBERT, arXiv:1909.10351; MiniLM, arXiv:2002.10957).

    ``of: activation``: features (batch, channels, *space) become maps, the mean over channels of |feature|^power, of
    unit length for each sample, and their squared differences are summed over all places. No adapter is needed.
    ``of: attention``: the paired modules give attention probabilities (batch, heads, queries, keys) beside their
    output, as those of Hugging Face do with ``attn_implementation="eager"``. ``of: relation``: the paired modules give
    (batch, tokens, width), such as the projection of the values or of the keys; compared is how tokens relate, the
    softmax of their scaled products, so that widths and numbers of heads may differ. Padding, marked by
    ``attention_mask``, is left out.
    """

    type: Literal["attention_distillation"] = "attention_distillation"
    weight: ScheduledNumber = 0.5
    """Of the term: a number, or a curve over the window."""
    of: Literal["activation", "attention", "relation"] = "activation"
    """What is compared: maps of activations, attention probabilities, or relations of tokens."""
    power: Annotated[Number, Field(ge=1)] = 2.0
    """Of ``activation``: of the activations in a map; larger ones look at the strongest places."""
    loss: Literal["kl", "mse"] = "kl"
    """Of ``attention``: the KL divergence over the keys (MiniLM), or the squared error (TinyBERT)."""
    heads: Annotated[int, Strict(), Field(ge=1)] = 1
    """Of ``relation``: into how many parts the widths are split, each with a relation of its own (MiniLMv2)."""

    #: which fields belong to which value of ``of``
    belonging: ClassVar = {"activation": "power", "attention": "loss", "relation": "heads"}

    def unused_fields(self) -> Sequence[str]:
        idle = [name for of, name in self.belonging.items() if of != self.of and name in self.model_fields_set]
        return [*super().unused_fields(), *idle]

    def difference(self, training: Training, pairs: Sequence[Layers]) -> Difference:
        kinds: dict[str, Difference] = {
            "activation": self._of_activations,
            "attention": self._of_attention,
            "relation": self._of_relations,
        }
        return kinds[self.of]

    def _of_activations(self, forward: Pass, layers: Layers) -> Tensor:
        return attention_transfer_loss(*layers.both(hidden_state), self.power)

    def _of_attention(self, forward: Pass, layers: Layers) -> Tensor:
        ours, theirs = layers.both(_probabilities)
        if not torch.compiler.is_compiling():
            _refuse_dropout(layers, ours)
        loss = attention_distribution_loss if self.loss == "kl" else attention_squared_loss
        return loss(ours, theirs, tokens_that_count(forward, ours.transpose(1, 2)))

    def _of_relations(self, forward: Pass, layers: Layers) -> Tensor:
        ours, theirs = layers.both(hidden_state)
        return relation_loss(ours, theirs, self.heads, tokens_that_count(forward, ours))


def _refuse_dropout(layers: Layers, probabilities: Tensor) -> None:
    """What dropout has gone over are no distributions any more, and the KL divergence to them is that of the holes."""
    sums = probabilities.detach().float().sum(-1)
    if bool(((sums - 1).abs() > 0.05).logical_and(sums != 0).any()):
        raise TargetError(
            f"{layers.ours.name} gives attention probabilities that do not sum to 1, as after dropout: turn the "
            "attention's dropout off (attention_probs_dropout_prob=0 or attention_dropout=0 in the configuration), or "
            "compare relations of its projections (of: relation)"
        )


def _probabilities(given: Any, name: str) -> Tensor:
    parts = given if isinstance(given, (tuple, list)) else [given]
    found = next((part for part in parts if isinstance(part, Tensor) and part.dim() == 4), None)
    if found is None:
        raise TargetError(
            f"{name} gives no attention probabilities (batch, heads, queries, keys): load the model with "
            'attn_implementation="eager", or compare relations of its projections (of: relation)'
        )
    return found
