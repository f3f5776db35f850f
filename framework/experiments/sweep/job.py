"""A job of a sweep, as Hydra's launchers call it: in this process, another one, or on another machine."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from paredown.framework.experiments.folder import run_in_folder
from paredown.framework.experiments.sweep.claims import claim
from paredown.framework.experiments.sweep.job_status import JobStatus, write_status
from paredown.framework.experiments.sweep.manifest import Manifest
from paredown.framework.experiments.sweep.overrides import recipe_overrides
from paredown.framework.experiments.sweep.row import read_row
from paredown.framework.experiments.task import load_task
from paredown.framework.experiments.training_loop import Progress
from paredown.framework.recipe import Recipe
from paredown.framework.report.metrics import Measured
from paredown.framework.storage.files import write_text

__all__ = ["SweepJob", "has_ended", "is_finished", "mark_failed"]

#: seconds between two notes of a job's progress
PAUSE = 2.0


@dataclass(frozen=True)
class SweepJob:
    """The function that runs one job of a sweep; it can be pickled.

    A job that fails notes its error and returns, so that the launcher goes on with the others.
    """

    manifest: Manifest
    folder: Path

    def __call__(self, config: Any) -> str:
        """Run the job that Hydra composed; returns its state."""
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        return self.run(Path(hydra.runtime.output_dir), [str(one) for one in hydra.overrides.task])

    def run(self, folder: Path, overrides: Sequence[str]) -> str:
        """Run a job in its folder, unless it is finished or another process runs it; returns its state."""
        with claim(folder) as claimed:
            if not claimed:
                return "running"
            if is_finished(folder):
                return "finished"
            status = JobStatus("running", tuple(overrides), started=time.time())
            write_status(folder, status)
            try:
                task = self._run(folder, overrides, _ProgressNotes(folder, status))
            except (Exception, SystemExit) as error:  # a task is somebody's code, and the other jobs go on
                write_text(folder / "error.txt", traceback.format_exc())
                mark_failed(folder, overrides, error, status)
                return "failed"
            (folder / "error.txt").unlink(missing_ok=True)
            write_status(folder, dataclasses.replace(status, state="finished", ended=time.time(), task=task))
            return "finished"

    def _run(self, folder: Path, overrides: Sequence[str], notes: _ProgressNotes) -> str:
        wanted = self.manifest
        recipe = Recipe.load(yaml.safe_load(wanted.recipe_text), recipe_overrides(overrides))
        with _threads(wanted.threads):
            task = load_task(wanted.task, Path(wanted.working_folder))
            run_in_folder(
                task, wanted.task, recipe, folder, notes.of,
                seeds=wanted.seeds, one_shot=wanted.one_shot, record=wanted.record, dense=self.folder / "dense",
            )  # fmt: skip
        return task.name


def is_finished(folder: Path) -> bool:
    """Whether a job finished, and its results can be read."""
    return read_row(folder).state == "finished"


def has_ended(folder: Path) -> bool:
    """Whether a job finished or failed, by its folder."""
    return read_row(folder).state in ("finished", "failed")


def mark_failed(
    folder: Path, overrides: Sequence[str], error: BaseException | str, status: JobStatus | None = None
) -> None:
    """Write into a job's status that it failed, with the first line of its error."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    status = status or JobStatus("failed", tuple(overrides))
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")[:500]
    write_status(folder, dataclasses.replace(status, state="failed", ended=time.time(), error=first))


@dataclass
class _ProgressNotes:
    """Notes of a job's progress in its status, a few seconds apart."""

    folder: Path
    status: JobStatus
    last: float = 0.0

    def of(self, seed: int) -> Progress:
        def note(what: str, step: int, total: int, measured: Measured) -> None:
            now = time.monotonic()
            if now - self.last >= PAUSE:
                self.last = now
                doing = f"seed {seed}, {what}, step {step} of {total}"
                write_status(self.folder, dataclasses.replace(self.status, doing=doing))

        return note


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Limit torch to a number of threads for the length of a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else min(number, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
