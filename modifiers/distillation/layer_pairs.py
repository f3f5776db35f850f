"""The base of the modifiers that compare layers of a student with layers of its teacher."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from paredown.framework.auxiliary.losses import Pass
from paredown.framework.errors import TargetError
from paredown.framework.model.fused_layers import restore_fast_path, use_slow_path
from paredown.framework.model.targets import match_roots, named_modules
from paredown.framework.modifier.base import Foreseen
from paredown.framework.modifier.fields import Pattern
from paredown.framework.modifier.training import Training
from paredown.modifiers.distillation.distillation import Compute
from paredown.modifiers.distillation.signals.captured import Capture
from paredown.modifiers.distillation.signals.outputs import TeacherOutput
from paredown.modifiers.distillation.signals.pairs import paired_layers
from paredown.modifiers.distillation.teacher_losses import Copied, Taught, output_of

__all__ = ["Difference", "Layers", "Paired"]


@dataclass(frozen=True)
class Layers:
    """A layer of the student and the one of a teacher that it learns from.

    Attributes:
        key: names the pair.
        student, teacher: the layers.
        teacher_model: the whole teacher.
        ours, theirs: what they give in a forward.
    """

    key: str
    student: nn.Module
    teacher: nn.Module
    teacher_model: nn.Module
    ours: Capture
    theirs: Capture

    def both(self, read: Callable[[Any, str], Tensor]) -> tuple[Tensor, Tensor]:
        """What ``read`` finds in what they gave, the teacher's on the student's device and in its type."""
        ours, theirs = (read(capture.take(), capture.name) for capture in (self.ours, self.theirs))
        return ours, theirs.to(ours.device, ours.dtype)


Difference = Callable[[Pass, Layers], Tensor]


class Paired(Taught):
    """Base: the term is the mean of differences between paired layers."""

    example: ClassVar[Mapping[str, Any]] = {"pairs": {"Conv2d": "Conv2d"}}

    pairs: Annotated[dict[Pattern, Pattern], Field(min_length=1)]
    """Which layer of the student learns from which of the teacher: names, globs, class names or ``re:`` patterns. Those
    that mean several pair them in order; of a teacher with k times as many, every k-th counts."""

    def check(self, training: Training) -> None:
        super().check(training)
        for pattern in self.pairs:
            match_roots(training.model, pattern)

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        return [
            Foreseen(name, f"taught by {theirs} of the teacher")
            for ours, theirs in self.pairs.items()
            for name in match_roots(training.model, ours)
        ]

    def term(self, training: Training, state: Copied, settings: dict[str, Tensor]) -> Compute:
        outputs: list[tuple[TeacherOutput, list[Layers]]] = []
        for place, teacher in enumerate(self.teachers(training, state)):
            outputs.append((output_of(teacher), self._captured(training, teacher, place)))
        pairs = [layers for _, group in outputs for layers in group]
        difference = self.difference(training, pairs)

        def term(forward: Pass) -> Tensor:
            for teacher_output, _ in outputs:
                teacher_output(forward)
            return torch.stack([self._told(difference, forward, layers) for layers in pairs]).mean()

        return term

    @abstractmethod
    def difference(self, training: Training, pairs: Sequence[Layers]) -> Difference:
        """Build the function of a forward and a pair that gives their difference, a 0-d tensor."""

    def detach(self, training: Training, state: Copied) -> None:
        self._restore_fast_paths(training)
        super().detach(training, state)

    def release(self, training: Training, state: Copied) -> None:
        self._restore_fast_paths(training)
        super().release(training, state)

    def _restore_fast_paths(self, training: Training) -> None:
        """A teacher's fused layers call no children; those that were listened to may be fused again."""
        for link in training.links:
            if isinstance(link, Capture) and link.model is not None:
                restore_fast_path(link.model, [link.layer])

    def _told(self, difference: Difference, forward: Pass, layers: Layers) -> Tensor:
        """The difference; where shapes do not go together, an error that names the layers."""
        if torch.compiler.is_compiling():
            return difference(forward, layers)
        try:
            return difference(forward, layers)
        except ValueError as error:
            raise TargetError(f"{layers.ours.name} and {layers.theirs.name} cannot be compared: {error}") from error

    def _captured(self, training: Training, teacher: nn.Module, place: int) -> list[Layers]:
        ours, theirs = named_modules(training.model), named_modules(teacher)
        captured: list[Layers] = []
        for own, other in paired_layers(training.model, teacher, self.pairs):
            links = (
                Capture(f"{self.name}: the student's layer {own}"),
                Capture(f"{self.name}: the teacher's {other}", teacher, other),
            )
            use_slow_path(teacher, [other])
            for module, link in zip((ours[own], theirs[other]), links, strict=True):
                training.links.add(module, link)
            captured.append(Layers(f"{place}-{len(captured)}", ours[own], theirs[other], teacher, *links))
        return captured
