"""`feature_distillation`: features of the student match features of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from paredown.framework.auxiliary.losses import Pass
from paredown.framework.model.forward import call
from paredown.framework.model.temporary import evaluating
from paredown.framework.modifier.curves import ScheduledNumber
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.modifiers.distillation.layer_pairs import Difference, Layers, Paired
from paredown.modifiers.distillation.losses.features import cosine_loss, relative_squared_loss, squared_loss
from paredown.modifiers.distillation.signals.adapters import Adapters
from paredown.modifiers.distillation.signals.features import channel_dimension, hidden_state, tokens_that_count
from paredown.modifiers.distillation.teacher_losses import for_teacher

__all__ = ["FeatureDistillation"]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "relative": relative_squared_loss,
    "mse": squared_loss,
    "cosine": lambda student, teacher, weights: cosine_loss(student, teacher, weights, dimension=1),
}


class FeatureDistillation(Paired):
    """FitNets: hints for thin deep nets (Romero et al., 2015, arXiv:1412.6550), and the hidden states of transformers
    as in TinyBERT (Jiao et al., 2020, arXiv:1909.10351, equation 8).

    A layer of the student is to give what a layer of the teacher gives. Features are (batch, channels),
    (batch, channels, *space) or (batch, tokens, channels). Where space differs, both are averaged to the smaller one;
    where channels differ, the student's go through a linear map (a 1x1 convolution) that is trained with the student by
    an optimizer like the loop's, saved with the run, and gone at the end. Padding, marked by ``attention_mask``, is
    left
    out.
    """

    type: Literal["feature_distillation"] = "feature_distillation"
    weight: ScheduledNumber = 0.1
    """Of the term: a number, or a curve over the window."""
    warmup: Time | None = Time.parse(5)
    """Over how long the weight rises linearly from 0 at the start of the window; at most half of the window."""
    loss: Literal["relative", "mse", "cosine"] = "relative"
    """``relative``: the squared error over the teacher's mean square; ``mse``: the mean squared error; ``cosine``: 1 -
    the cosine of the channels, the mean over all places."""
    channel_dimension: Annotated[int, Field(ge=1, le=4)] | None = None
    """Which dimension of the features holds the channels. Default: 1; of three 2, unless the layer is a convolution."""

    def difference(self, training: Training, pairs: Sequence[Layers]) -> Difference:
        adapters = Adapters(training)
        self._prepare(training, adapters, pairs)
        loss = LOSSES[self.loss]

        def difference(forward: Pass, layers: Layers) -> Tensor:
            ours, theirs = layers.both(hidden_state)
            tokens = tokens_that_count(forward, ours) if self._channels(ours, layers) == 2 else None
            student, teacher = adapters.fitted(layers.key, *self._with_channels_second(layers, ours, theirs))
            counts = tokens is not None and tokens.shape == student.shape[:1] + student.shape[2:]
            return loss(student, teacher, tokens.unsqueeze(1) if counts and tokens is not None else None)

        return difference

    def _prepare(self, training: Training, adapters: Adapters, pairs: Sequence[Layers]) -> None:
        """Build adapters before the first forward: from the example's shapes, or from the layers' widths."""
        example = training.data.example()
        if example is None:
            for layers in pairs:
                adapters.guess(layers.key, layers.student, layers.teacher_model, layers.teacher)
            return
        with evaluating(training.model):
            call(training.model, *example)
        for teacher in {id(layers.teacher_model): layers.teacher_model for layers in pairs}.values():
            with evaluating(teacher):
                call(teacher, for_teacher(teacher, example[0]), example[1])
        for layers in pairs:
            adapters.fitted(layers.key, *self._with_channels_second(layers, *layers.both(hidden_state)))

    def _channels(self, feature: Tensor, layers: Layers) -> int:
        return channel_dimension(feature, layers.student) if self.channel_dimension is None else self.channel_dimension

    def _with_channels_second(self, layers: Layers, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        dimension: Any = self._channels(ours, layers)
        return ours.movedim(dimension, 1), theirs.movedim(dimension, 1)
