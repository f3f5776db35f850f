"""What a job of a sweep writes down while it runs, so that it goes on where it was killed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from paredown.framework.errors import CheckpointError, ParedownError
from paredown.framework.experiments.training_loop import TrainingLoop
from paredown.framework.report import Report
from paredown.framework.run.checkpoint import resume, save
from paredown.framework.storage.files import load_plain, whole_file, write_text
from paredown.framework.storage.random_state import random_state, set_random_state

if TYPE_CHECKING:
    from paredown.framework.experiments.seeds import Outcome
    from paredown.framework.run.manager import ScheduledManager

__all__ = ["Keeping"]


@dataclass(frozen=True)
class Keeping:
    """The files of one seed of a job.

    Attributes:
        dense: the dense model trained under this seed, which all jobs of the sweep start from.
        half: the checkpoint after the last epoch of the recipe.
        outcome: what the seed gave, once it is through.
    """

    dense: Path
    half: Path
    outcome: Path

    def load_dense(self, model: nn.Module) -> bool:
        """Put the trained weights into a freshly built model, and the generators where they were after its training."""
        try:
            kept = load_plain(self.dense)
            model.load_state_dict(kept["model"])
            set_random_state(kept["random"])
        except (CheckpointError, KeyError, TypeError, RuntimeError):
            return False
        return True

    def save_dense(self, model: nn.Module) -> None:
        """Keep a dense model that was just trained; another job's is the same."""
        with whole_file(self.dense) as file:
            torch.save({"model": model.state_dict(), "random": random_state()}, file)

    def go_on(self, loop: TrainingLoop, manager: ScheduledManager) -> None:
        """Restore the run from the last epoch's checkpoint, where there is one that fits."""
        if not self.half.exists():
            return
        try:
            loop.load(resume(self.half, loop.model, loop.optimizer, manager)["loop"])
        except CheckpointError:
            self.half.unlink(missing_ok=True)  # damaged: the run starts anew, and the model is as it was

    def save_half(self, loop: TrainingLoop, manager: ScheduledManager) -> None:
        """Write the checkpoint of an epoch; a scheduler whose state is no plain values means a run without one."""
        try:
            save(self.half, loop.model, loop.optimizer, manager, loop=loop.state())
        except CheckpointError:
            self.half.unlink(missing_ok=True)

    def save_outcome(self, outcome: Outcome) -> None:
        """Write down what the seed gave; the half-trained checkpoint is no longer needed."""
        values = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
        write_text(self.outcome, json.dumps({**values, "report": outcome.report.to_json()}))
        self.half.unlink(missing_ok=True)

    def load_outcome(self) -> Outcome | None:
        """What the seed gave before the job was killed; None where it was not through."""
        from paredown.framework.experiments.seeds import Outcome

        try:
            plain: dict[str, Any] = json.loads(self.outcome.read_text(encoding="utf-8"))
            points = [(at, accuracy) for at, accuracy in plain["accuracies"]]
            return Outcome(**{**plain, "report": Report.from_json(plain["report"]), "accuracies": points})
        except (OSError, ValueError, TypeError, KeyError, ParedownError):
            return None

    def clear(self) -> None:
        """Take away what only a killed job needs."""
        for path in (self.half, self.outcome):
            path.unlink(missing_ok=True)
