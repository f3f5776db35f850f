"""One job of a sweep, as Hydra's launchers call it: in this process, another one, or on another machine."""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paredown.framework.experiments.sweep.claims import claim
from paredown.framework.experiments.sweep.job_status import JobStatus, write_status
from paredown.framework.experiments.sweep.manifest import Manifest
from paredown.framework.experiments.sweep.row import read_row
from paredown.framework.storage.files import write_text

__all__ = ["SweepJob", "is_finished", "is_through", "mark_failed"]

#: seconds between two notes on how far a job is
BEAT = 2.0


@dataclass(frozen=True)
class SweepJob:
    """What every job does; it can be pickled.

    A job that fails notes its error and returns, so that the launcher goes on with the others.
    """

    manifest: Manifest
    folder: Path

    def __call__(self, config: Any) -> str:
        """Run the job that Hydra composed; gives its state."""
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        return self.run(Path(hydra.runtime.output_dir), [str(one) for one in hydra.overrides.task])

    def run(self, folder: Path, overrides: Sequence[str]) -> str:
        """Run one job in its folder, unless it is finished, or another process is at it."""
        with claim(folder) as claimed:
            if not claimed:
                return "running"
            if is_finished(folder):
                return "finished"
            status = JobStatus("running", tuple(overrides), started=time.time())
            write_status(folder, status)
            try:
                task = self._run(folder, overrides, _Beat(folder, status))
            except (Exception, SystemExit) as error:  # a task is somebody's code, and the other jobs go on
                write_text(folder / "error.txt", traceback.format_exc())
                mark_failed(folder, overrides, error, status)
                return "failed"
            (folder / "error.txt").unlink(missing_ok=True)
            write_status(folder, dataclasses.replace(status, state="finished", ended=time.time(), task=task))
            return "finished"

    def _run(self, folder: Path, overrides: Sequence[str], beat: _Beat) -> str:
        from paredown.framework.experiments.folder import write_results
        from paredown.framework.experiments.seeds import run_seeds
        from paredown.framework.experiments.sweep.overrides import recipe_overrides
        from paredown.framework.experiments.task_loading import load_task
        from paredown.framework.recipe import Recipe
        from paredown.framework.report.evidence import repeatable

        wanted = self.manifest
        recipe = Recipe.load(yaml.safe_load(wanted.recipe_text), recipe_overrides(overrides))
        with _importable(wanted.working_folder), _threads(wanted.threads):
            task = load_task(wanted.task)
            seeds = task.seeds if wanted.seeds is None else range(wanted.seeds)
            dense = self.folder / "dense"
            report = run_seeds(task, recipe, seeds, folder, beat.of, _nothing, wanted.one_shot, dense)
        report = repeatable(report, wanted.task, seeds, wanted.one_shot)
        write_results(report, recipe, folder, task.name if wanted.record else None)
        return task.name


def is_finished(folder: Path) -> bool:
    """Whether a job gave its results, and they can be read."""
    return read_row(folder).state == "finished"


def is_through(folder: Path) -> bool:
    """Whether a job finished or failed, as far as its folder tells."""
    return read_row(folder).state in ("finished", "failed")


def mark_failed(
    folder: Path, overrides: Sequence[str], error: BaseException | str, status: JobStatus | None = None
) -> None:
    """Note that a job failed, and with what."""
    told = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    status = status or JobStatus("failed", tuple(overrides))
    first = next((line.strip() for line in told.splitlines() if line.strip()), "")[:500]
    write_status(folder, dataclasses.replace(status, state="failed", ended=time.time(), error=first))


@dataclass
class _Beat:
    """Notes in the job's status how far it is."""

    folder: Path
    status: JobStatus
    last: float = 0.0

    def of(self, seed: int) -> Callable[[str, int, int, float | None], None]:
        def tell(what: str, step: int, total: int, accuracy: float | None) -> None:
            now = time.monotonic()
            if now - self.last >= BEAT:
                self.last = now
                doing = f"seed {seed}, {what}, step {step} of {total}"
                write_status(self.folder, dataclasses.replace(self.status, doing=doing))

        return tell


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """The task's folder first on the path of imports; it stays there, for what the task imports later."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    yield


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """At most so many threads of torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else min(number, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _nothing(text: str) -> None:
    """Shows nothing."""
