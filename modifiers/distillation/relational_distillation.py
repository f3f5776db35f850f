"""`relational_distillation`: the relations of a batch's samples to each other match the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from paredown.framework.auxiliary.losses import Pass
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.curves import ScheduledNumber
from paredown.framework.modifier.fields import Pattern
from paredown.framework.modifier.training import Training
from paredown.modifiers.distillation.distillation import Compute
from paredown.modifiers.distillation.layer_pairs import Difference, Layers, Paired
from paredown.modifiers.distillation.losses.relations import angle_loss, distance_loss, similarity_loss
from paredown.modifiers.distillation.signals.features import embeddings, hidden_state, tokens_that_count
from paredown.modifiers.distillation.teacher_losses import Copied, output_of

__all__ = ["RelationalDistillation"]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "distance_angle": lambda student, teacher: distance_loss(student, teacher) + 2 * angle_loss(student, teacher),
    "distance": distance_loss,
    "angle": angle_loss,
    "similarity": similarity_loss,
}


class RelationalDistillation(Paired):
    """Relational knowledge distillation (Park et al., 2019, arXiv:1904.05068) and similarity-preserving distillation
    (Tung & Mori, 2019, arXiv:1907.09682).

    The distances and angles between the samples of a batch, or their similarities, are to be those that the teacher
    sees; widths may differ, and no adapter is needed. Features are flattened; those of tokens (batch, tokens, width)
    are averaged over the tokens that ``attention_mask`` counts. Angles take batch^3 numbers.
    """

    example: ClassVar[Mapping[str, Any]] = {}

    type: Literal["relational_distillation"] = "relational_distillation"
    pairs: dict[Pattern, Pattern] = {}  # noqa: RUF012 (pydantic copies it)
    """Which layer of the student learns from which of the teacher. Default: the outputs of both models."""
    weight: ScheduledNumber = 0.5
    """Of the term: a number, or a curve over the window."""
    loss: Literal["distance_angle", "distance", "angle", "similarity"] = "distance_angle"
    """``distance_angle``: distances and twice the angles (the weights of the paper); ``similarity``: the products of
    the samples."""

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        return super().foresee(training) or [Foreseen("(output)", "relations in the batch taught by the teacher")]

    def term(self, training: Training, state: Copied, settings: dict[str, Tensor]) -> Compute:
        if self.pairs:
            return super().term(training, state, settings)
        outputs = [output_of(teacher) for teacher in self.teachers(training, state)]

        def term(forward: Pass) -> Tensor:
            return torch.stack(
                [self._between(forward, forward.output, teacher_output(forward)) for teacher_output in outputs]
            ).mean()

        return term

    def difference(self, training: Training, pairs: Sequence[Layers]) -> Difference:
        return lambda forward, layers: self._between(forward, layers.ours.take(), layers.theirs.take())

    def _between(self, forward: Pass, ours: Any, theirs: Any) -> Tensor:
        student = hidden_state(ours, "the student")
        teacher = hidden_state(theirs, "the teacher").to(student.device, student.dtype)
        pooled = [embeddings(each, tokens_that_count(forward, each)) for each in (student, teacher)]
        return LOSSES[self.loss](pooled[0], pooled[1])
