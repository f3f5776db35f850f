"""`freeze`: parameters that do not train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.model.targets import match_parameters, named_parameters
from paredown.framework.modifier.base import Foreseen, TargetedModifier
from paredown.framework.modifier.training import Training


@dataclass
class Frozen:
    """The names of the parameters that trained before the window opened."""

    names: list[str] = field(default_factory=list)


class Freeze(TargetedModifier):
    """Parameters get no gradient and stand still while the window is open; at its end they train again.

    Targets may name parameters too (``head.bias``). Parameters that did not require a gradient before are left alone.
    Batch-norm statistics are no parameters and go on moving.
    """

    example: ClassVar = {"targets": ["re:.*bias"], "end": "50%"}
    claims: ClassVar = frozenset({"requires_grad"})
    kinds: ClassVar = (nn.Module,)
    state_type: ClassVar = Frozen
    needs_training: ClassVar = True

    type: Literal["freeze"] = "freeze"

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return list(self._parameters(training).values())

    def check(self, training: Training) -> None:
        self._parameters(training)

    def remarks(self, training: Training) -> Sequence[str]:
        return ()

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        return [Foreseen(name, "stands still") for name in self._parameters(training)]

    def on_start(self, training: Training) -> Frozen:
        return Frozen([name for name, parameter in self._parameters(training).items() if parameter.requires_grad])

    def attach(self, training: Training, state: Frozen) -> None:
        if training.progress < 1:
            self._set(training, state, requires_grad=False)

    def on_end(self, training: Training, state: Frozen) -> None:
        self._set(training, state, requires_grad=True)

    def detach(self, training: Training, state: Frozen) -> None:
        self._set(training, state, requires_grad=True)

    def _set(self, training: Training, state: Frozen, requires_grad: bool) -> None:
        parameters = named_parameters(training.model)
        for name in state.names:
            if name in parameters:
                parameters[name].requires_grad_(requires_grad)
                parameters[name].grad = None
                training.surgery.note_change()

    def _parameters(self, training: Training) -> dict[str, nn.Parameter]:
        try:
            return match_parameters(training.model, self.targets, self.ignore)
        except TargetError as error:
            raise TargetError(f"{self.name}: {error}") from None
