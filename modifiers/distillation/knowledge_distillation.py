"""`knowledge_distillation`: a teacher's logits as a second target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from paredown.framework.auxiliary.losses import Pass
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.curves import ends_of, value_at
from paredown.framework.modifier.proposals import Proposal
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.modifiers.distillation.distillation import Compute
from paredown.modifiers.distillation.losses.divergences import standardized
from paredown.modifiers.distillation.losses.logit_loss import Decoupled, LogitLoss, loss_of
from paredown.modifiers.distillation.losses.softening import Temperature, moving, temperature_in
from paredown.modifiers.distillation.signals.outputs import (
    class_dimension_of,
    labels_of,
    logits_of,
    predicts_next,
    same_classes,
)
from paredown.modifiers.distillation.signals.teacher_cache import Remembering, remembered
from paredown.modifiers.distillation.teacher_losses import Copied, Taught, output_of

__all__ = ["KnowledgeDistillation"]

FIVE_EPOCHS = Time.parse(5)


class KnowledgeDistillation(Taught):
    """Distilling the knowledge in a neural network (Hinton, Vinyals & Dean, 2015, arXiv:1503.02531).

    The total loss is (1 - weight) x the loop's own loss + weight x T^2 KL(teacher || student) of the logits softened
    by the temperature T, averaged over the batch. It reaches the gradient without a line in the loop; scaling of the
    loss (a GradScaler, division for accumulation) has to be declared to ``modify``.

    Logits are the output, its ``logits``, or the first tensor of a tuple. Of a forward that is given ``labels``, places
    with the label -100 are left out, and the places of a causal language model are those of the next token. Large
    logits are compared in pieces of rows, so that no second copy of them is made.

    Further losses: decoupled (DKD, arXiv:2203.08679; the target class is the label where the forward is given
    ``labels``, else the teacher's first choice), dist (DIST, arXiv:2205.10536), jensen_shannon, reverse_kl
    (arXiv:2306.08543), mse of the logits (arXiv:2105.08919), top_k.
    """

    example: ClassVar = {}

    proposals: ClassVar = (Proposal("teacher", "the dense model teaches", {"weight": 0.7}, whole=True),)

    type: Literal["knowledge_distillation"] = "knowledge_distillation"
    temperature: Temperature = 4.0
    """Softens both distributions: a number, or a curve over the window."""
    loss: LogitLoss = "kl"
    """``kl``, ``decoupled``, ``dist``, ``jensen_shannon``, ``reverse_kl``, ``mse``, ``top_k``; with numbers of its own
    ``{decoupled: {alpha: 1, beta: 8}}``, ``{dist: {inter: 1, intra: 1}}``, ``{top_k: 10}``."""
    standardize: bool = False
    """Whether both logits are standardized row by row before (arXiv:2403.01427): their spread no longer counts."""
    class_dimension: int | None = None
    """Which dimension of the logits holds the classes. Default: the last, of four and more the second."""
    truncate_vocabulary: bool = False
    """Whether the larger of two vocabularies is cut to the first classes of it; else a difference is an error."""
    cache: Literal["none", "memory", "disk"] | Remembering = "none"
    """Whether the teacher's logits are kept for inputs that come again: in ``memory``, in a temporary file on ``disk``,
    or ``{disk: 64}``, the 64 most probable classes of each row and the rest in one. A compiled forward always asks the
    teacher."""
    warmup: Time | None = None
    """Over how long the weight rises linearly from 0; at most half of the window. Default: 5 epochs for the decoupled
    loss, else 0."""

    @property
    def warming(self) -> Time:
        if self.warmup is not None:
            return self.warmup
        decoupled = self.loss == "decoupled" or isinstance(self.loss, Decoupled)
        return FIVE_EPOCHS if decoupled else super().warming

    @model_validator(mode="after")
    def _remembers_what_stays(self) -> KnowledgeDistillation:
        if self.cache != "none" and "ema" in self.teacher:
            raise ValueError("a cache keeps a teacher's outputs, and teacher: ema changes in every step: cache: none")
        return self

    def settings(self, progress: float) -> dict[str, float]:
        return moving(self.temperature, progress)

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        shares = " to ".join(f"{end:g}" for end in ends_of(self.weight))
        temperatures = " to ".join(f"{end:g}" for end in ends_of(self.temperature))
        return [Foreseen("(output)", f"{shares} of the loss from the teacher, at temperature {temperatures}")]

    def term(self, training: Training, state: Copied, settings: dict[str, Tensor]) -> Compute:
        teachers = [
            remembered(output_of(teacher), self.cache, value_at(self.temperature, 1.0))
            for teacher in self.teachers(training, state)
        ]
        compare = self._comparison(predicts_next(training.model), settings)

        def term(forward: Pass) -> Tensor:
            return torch.stack(
                [compare(forward, logits_of(teacher_output(forward))) for teacher_output in teachers]
            ).mean()

        return term

    def _comparison(self, ahead: bool, settings: dict[str, Tensor]) -> Callable[[Pass, Tensor], Tensor]:
        loss = loss_of(self.loss)
        temperature = temperature_in(settings, self.temperature)

        def compare(forward: Pass, taught: Tensor) -> Tensor:
            student = logits_of(forward.output)
            dimension = class_dimension_of(student) if self.class_dimension is None else self.class_dimension
            ours, theirs = student, taught.to(student.device, student.dtype)
            if dimension not in (-1, student.dim() - 1):
                ours, theirs = ours.movedim(dimension, -1), theirs.movedim(dimension, -1)
            ours, theirs = same_classes(ours, theirs, self.truncate_vocabulary)
            if self.standardize:
                ours, theirs = standardized(ours), standardized(theirs)
            return loss(ours, theirs, temperature, labels_of(forward, ours, ahead))

        return compare
