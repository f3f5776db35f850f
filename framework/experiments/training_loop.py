"""A plain training loop on a task, which can be interrupted between two epochs and resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from paredown.framework.experiments.task import Task
from paredown.framework.report.metrics import Measured

__all__ = ["Progress", "TrainingLoop"]

#: called after every optimizer step with (what is trained, step, steps in all, what was last measured)
Progress = Callable[[str, int, int, Measured], None]


@dataclass
class TrainingLoop:
    """Training of a model for some epochs.

    Attributes:
        task, model, optimizer: of the run.
        epochs: how long to train; may end within an epoch.
        progress: called after every step.
        what: the name of this training for ``progress``, such as "dense".
        evaluate: measures a model, for a point of ``curve`` after every epoch.
        scheduled: whether the task's scheduler runs.
        step: the number of steps done.
        curve: (epoch, what was measured).
    """

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    epochs: float
    progress: Progress
    what: str
    evaluate: Callable[[nn.Module], Measured] | None = None
    scheduled: bool = True
    step: int = 0
    curve: list[tuple[float, Measured]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.length = len(self.task.train_loader)
        self.total = round(self.epochs * self.length)
        make = self.task.scheduler if self.total and self.scheduled else None
        self.scheduler = None if make is None else make(self.optimizer, self.total)

    def run(self, after_epoch: Callable[[], None] | None = None) -> list[tuple[float, Measured]]:
        """Train to the end and return the curve; ``after_epoch`` is called between two epochs."""
        while self.step < self.total:
            self._epoch()
            if self.evaluate is not None:
                self.curve.append((self.step / self.length, self.evaluate(self.model)))
            if after_epoch is not None and self.step < self.total:
                after_epoch()
        return self.curve

    def state(self) -> dict[str, Any]:
        """The loop's state in plain values, without that of the model and the optimizer."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return {
            "step": self.step,
            "curve": [[at, dict(measured)] for at, measured in self.curve],
            "scheduler": scheduler,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the loop from its `state`, after model and optimizer were restored."""
        self.step = state["step"]
        self.curve[:] = [(at, dict(measured)) for at, measured in state["curve"]]
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])

    def _epoch(self) -> None:
        self.model.train()
        for batch in self.task.train_loader:
            if self.step == self.total:
                break
            self.optimizer.zero_grad()
            output = self.model(**batch) if isinstance(batch, Mapping) else self.model(batch[0])
            loss: Any = self.task.loss_of(output, batch)
            loss.backward()
            self.optimizer.step()
            if self.scheduler is not None:
                self.scheduler.step()
            self.step += 1
            self.progress(self.what, self.step, self.total, self.curve[-1][1] if self.curve else {})
