"""The base of the modifiers that learn from a teacher: where it comes from, and its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from paredown.framework.auxiliary.losses import Pass
from paredown.framework.errors import TargetError
from paredown.framework.modifier.fields import Share
from paredown.framework.modifier.training import Training
from paredown.modifiers.distillation.distillation import Distillation
from paredown.modifiers.distillation.signals.moving_average import average_, averaging_decay
from paredown.modifiers.distillation.signals.outputs import TeacherOutput

__all__ = ["Copied", "Taught", "for_teacher", "output_of"]

#: teachers that are copies of the model, taken when the window opens
COPIES = ("start", "ema")


@dataclass
class Copied:
    """Copies of the model that teach.

    Attributes:
        operations: changes of structure that the model had when they were taken.
        averaged: steps in the moving average.
    """

    operations: int = 0
    averaged: int = 0


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Taught(Distillation):
    """Base: the term is a difference to a teacher.

    The teacher is in eval mode, gets no gradient, and is no part of the student: neither its parameters nor its state
    dict know of it. It is called with what the model is called with, on its own device and in its own type.
    """

    state_type: ClassVar = Copied

    teacher: Annotated[
        tuple[str, ...],
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
        Field(min_length=1),
    ] = ("initial",)
    """``initial`` (a frozen copy of the model as it was handed over), ``start`` (as it was when the window opened: born
    again, arXiv:1805.04770), ``ema`` (a moving average of the model, arXiv:1703.01780), the path of a file with its
    tensors or of a Hugging Face folder; or a list of these, whose terms are averaged. One given to ``modify`` replaces
    it."""
    decay: Share = 0.999
    """Of ``teacher: ema``: the share of the average that stays in each step; less in the first ones."""

    @property
    def keeps_initial_model(self) -> bool:
        return "initial" in self.teacher

    @property
    def copies_model(self) -> bool:
        return any(source in COPIES for source in self.teacher)

    def unused_fields(self) -> Sequence[str]:
        return ["decay"] if "decay" in self.model_fields_set and "ema" not in self.teacher else []

    def check(self, training: Training) -> None:
        training.teachers.check([source for source in self.teacher if source not in COPIES])

    def on_start(self, training: Training) -> Copied:
        return Copied(len(training.surgery.records))

    def on_step(self, training: Training, state: Copied) -> None:
        super().on_step(training, state)
        averaged = training.modules.by_name().get("ema")
        if averaged is None:
            return
        if not average_(averaged, training.model, averaging_decay(self.decay, state.averaged)):
            training.record("average starts over", reason="the structure of the model has changed")
            state.operations, state.averaged = len(training.surgery.records), 0
            self.detach(training, state)
            self.attach(training, state)
        state.averaged += 1

    def teachers(self, training: Training, state: Copied) -> list[nn.Module]:
        """The teachers, in eval mode."""
        if training.teachers.given:
            return training.teachers.of(())
        return [self._one(training, state, source) for source in self.teacher]

    def _one(self, training: Training, state: Copied, source: str) -> nn.Module:
        if source not in COPIES:
            return training.teachers.of([source])[0]
        return training.modules.add(source, training.copy_as_of(state.operations))


def output_of(teacher: nn.Module) -> TeacherOutput:
    """A teacher's output for a forward of the student; computed once, however many terms use it."""
    key = f"output of {id(teacher)}"

    def teacher_output(forward: Pass) -> Any:
        if key not in forward.shared:
            if teacher.training:
                teacher.eval()
            with torch.no_grad():
                forward.shared[key] = _asked(teacher, forward)
        return forward.shared[key]

    return teacher_output


def _asked(teacher: nn.Module, forward: Pass) -> Any:
    args, kwargs = for_teacher(teacher, forward.args), for_teacher(teacher, forward.kwargs)
    if torch.compiler.is_compiling():
        return teacher(*args, **kwargs)
    try:
        return teacher(*args, **kwargs)
    except (TypeError, RuntimeError, ValueError) as error:
        raise TargetError(
            f"the teacher, a {type(teacher).__name__}, could not be called with what the model is called with: "
            f"{error}; wrap it in a module that takes the same"
        ) from error


def for_teacher(teacher: nn.Module, inputs: Any) -> Any:
    """Inputs on the teacher's device and, where they are floating point, in its type."""
    like = next(teacher.parameters(), None)
    if like is None:
        return inputs

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return tree_map(moved, leaf) if isinstance(leaf, (Mapping, list, tuple)) else leaf
        return leaf.to(like.device, like.dtype) if leaf.is_floating_point() else leaf.to(like.device)

    if isinstance(inputs, Mapping):
        return {name: moved(value) for name, value in inputs.items()}
    return [moved(value) for value in inputs] if isinstance(inputs, (list, tuple)) else moved(inputs)
