"""The files that a seed of a job writes while it runs, so that a killed job continues where it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from paredown.framework.errors import CheckpointError, ParedownError
from paredown.framework.experiments.json_files import read_object, write_object
from paredown.framework.experiments.outcome import Outcome
from paredown.framework.experiments.training_loop import TrainingLoop
from paredown.framework.run.checkpoint import resume, save
from paredown.framework.run.manager import ScheduledManager
from paredown.framework.storage.files import load_plain, whole_file
from paredown.framework.storage.random_state import random_state, set_random_state

__all__ = ["SeedFiles"]


@dataclass(frozen=True)
class SeedFiles:
    """The files from which one seed of a killed job is resumed.

    Attributes:
        dense: the dense model trained under this seed, which all jobs of the sweep start from.
        half: the checkpoint after the last epoch of the recipe.
        outcome: the seed's outcome, once it has finished.
    """

    dense: Path
    half: Path
    outcome: Path

    @classmethod
    def of(cls, seed: int, dense_folder: Path, folder: Path) -> SeedFiles:
        """The files of a seed whose dense models and whose results lie in these folders."""
        return cls(dense_folder / f"seed-{seed}.pt", folder / "half.pt", folder / "outcome.json")

    def load_dense(self, model: nn.Module) -> bool:
        """Load the trained weights into a new model and restore the random state after its training.

        Returns False where the file is damaged or does not fit; the model may then be loaded in part.
        """
        try:
            kept = load_plain(self.dense)
            model.load_state_dict(kept["model"])
            set_random_state(kept["random"])
        except (CheckpointError, KeyError, TypeError, RuntimeError):
            return False
        return True

    def save_dense(self, model: nn.Module) -> None:
        """Save a dense model that was just trained; every other job of the sweep would train the same one."""
        with whole_file(self.dense) as file:
            torch.save({"model": model.state_dict(), "random": random_state()}, file)

    def restore(self, loop: TrainingLoop, manager: ScheduledManager) -> None:
        """Restore the run from the checkpoint of its last epoch; without one that fits, the run starts over."""
        if not self.half.exists():
            return
        try:
            loop.load(resume(self.half, loop.model, loop.optimizer, manager)["loop"])
        except CheckpointError:
            self.half.unlink(missing_ok=True)  # damaged: nothing was loaded

    def save_half(self, loop: TrainingLoop, manager: ScheduledManager) -> None:
        """Save the checkpoint of an epoch; there is none where the scheduler's state is more than plain values."""
        try:
            save(self.half, loop.model, loop.optimizer, manager, loop=loop.state())
        except CheckpointError:
            self.half.unlink(missing_ok=True)

    def save_outcome(self, outcome: Outcome) -> None:
        """Save the seed's outcome; the checkpoint is no longer needed."""
        write_object(self.outcome, outcome.to_plain())
        self.half.unlink(missing_ok=True)

    def load_outcome(self) -> Outcome | None:
        """The outcome of a seed that finished before the job was killed; None for any other seed."""
        try:
            return Outcome.from_plain(read_object(self.outcome))
        except (OSError, ValueError, TypeError, KeyError, ParedownError):
            return None

    def clear(self) -> None:
        """Delete the files that only a killed job needs."""
        for path in (self.half, self.outcome):
            path.unlink(missing_ok=True)
