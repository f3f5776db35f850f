"""`batch_norm_freeze`: the running statistics of batch-norms stand still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from paredown.framework.calibration.frozen_statistics import freeze_statistics
from paredown.framework.modifier.base import Foreseen, TargetedModifier
from paredown.framework.modifier.training import Training


class BatchNormFreeze(TargetedModifier):
    """Batch-norms use their running statistics in training mode too, and leave them as they are, while the window is
    open: for fine-tuning with small batches, or for the last epochs before statistics are folded into weights.

    The loop may call ``model.train()`` as often as it likes. Scale and shift go on training; `freeze` stops these.
    """

    example: ClassVar = {"start": "50%"}
    claims: ClassVar = frozenset({"batch-norm statistics"})
    kinds: ClassVar = (_BatchNorm,)
    needs_training: ClassVar = True

    type: Literal["batch_norm_freeze"] = "batch_norm_freeze"

    @property
    def works_on_parts(self) -> bool:
        return True

    def refusal(self, training: Training, name: str, module: nn.Module) -> str | None:
        return "it keeps no running statistics" if getattr(module, "running_mean", None) is None else None

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        reasons = {name: self.refusal(training, name, module) for name, module in training.targets().items()}
        return [Foreseen(name, why or "its statistics stand still", bool(why)) for name, why in reasons.items()]

    def attach(self, training: Training, state: Any) -> None:
        if not training.ended:
            freeze_statistics(training, training.targets().values())

    def on_end(self, training: Training, state: Any) -> None:
        training.links.remove()

    def detach(self, training: Training, state: Any) -> None:
        training.links.remove()
