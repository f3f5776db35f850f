"""`knowledge_distillation`: a teacher's logits as a second target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from paredown.framework.auxiliary_loss import Term
from paredown.framework.errors import ScheduleError, TargetError
from paredown.framework.modifier import Foreseen, Modifier, Share
from paredown.framework.training import Training
from paredown.modifiers.distillation.losses import kl_divergence_loss
from paredown.modifiers.distillation.outputs import logits_of


class KnowledgeDistillation(Modifier):
    """Distilling the knowledge in a neural network (Hinton, Vinyals & Dean, 2015, arXiv:1503.02531).

    The total loss is (1 - weight) x the loop's own loss + weight x T^2 KL(teacher || student) of the logits softened
    by the temperature T, averaged over the batch. It reaches the gradient without a line in the loop; scaling of the
    loss (a GradScaler, division for accumulation) has to be declared to ``modify``.

    The teacher is in eval mode, gets no gradient, and is no part of the student: neither its parameters nor its state
    dict know of it.
    """

    example: ClassVar = {}
    needs_training: ClassVar = True

    type: Literal["knowledge_distillation"] = "knowledge_distillation"
    teacher: str = "initial"
    """``initial`` (a frozen copy of the model as it was handed over), or the path of a file with its tensors; one that
    is given to ``modify`` replaces it."""
    temperature: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] = 4.0
    """Softens both distributions."""
    weight: Share = 0.9
    """Share of the distillation loss in the total."""

    @property
    def keeps_initial_model(self) -> bool:
        return self.teacher == "initial"

    def check(self, training: Training) -> None:
        if not training.has_teacher(self) and self.teacher != "initial" and not Path(self.teacher).exists():
            raise ScheduleError(
                f"{self.name}: the teacher {self.teacher!r} does not exist; name a file of tensors, or give "
                "modify(..., teacher=module)"
            )

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        return [
            Foreseen("(output)", f"{self.weight:g} of the loss from the teacher, at temperature {self.temperature:g}")
        ]

    def attach(self, training: Training, state: None) -> None:
        if training.progress(self) < 1:
            teacher = training.teacher(self, self.teacher).eval()
            training.add_loss(self, Term(self._loss(teacher), self.weight))

    def on_end(self, training: Training, state: None) -> None:
        training.remove_loss(self)

    def detach(self, training: Training, state: None) -> None:
        training.remove_loss(self)

    def _loss(self, teacher: nn.Module) -> Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Tensor]:
        temperature = self.temperature

        def loss(output: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
            if teacher.training:
                teacher.eval()
            with torch.no_grad():
                taught = logits_of(teacher(*_for(teacher, args), **_for(teacher, kwargs)))
            logits = logits_of(output)
            taught = taught.to(logits.device, logits.dtype)
            if logits.shape != taught.shape:
                raise TargetError(
                    f"the student's logits have the shape {tuple(logits.shape)}, the teacher's {tuple(taught.shape)}: "
                    "they must agree"
                )
            return kl_divergence_loss(logits, taught, temperature)

        return loss


def _for(teacher: nn.Module, inputs: Any) -> Any:
    """Inputs on the teacher's device and, where they are floating point, in its type."""
    like = next(teacher.parameters(), None)
    if like is None:
        return inputs

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(like.device, like.dtype) if leaf.is_floating_point() else leaf.to(like.device)

    return tree_map(moved, inputs)
