"""Launching jobs: those of a launcher that fails are run again alone, so that one job takes no other with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from paredown.framework.experiments.sweep.claims import is_claimed
from paredown.framework.experiments.sweep.hydra import Hydra
from paredown.framework.experiments.sweep.job import SweepJob, has_ended, mark_failed
from paredown.framework.experiments.sweep.progress import JobEnded, JobStarted, LauncherFailed, Progress
from paredown.framework.experiments.sweep.row import read_row

__all__ = ["run_jobs"]

#: the overrides of jobs by their number
Jobs = Mapping[int, Sequence[str]]
#: seconds without a running job after which a cluster's launcher that failed is no longer waited for
QUIET = 10.0


def run_jobs(hydra: Hydra, job: SweepJob, jobs: Jobs) -> Iterator[Progress]:
    """Run numbered jobs; a failure is noted in the job's folder, also where it takes the launcher down with it.

    After that, the jobs that ran at that moment are run alone, which shows the one that failed, and the others go on.
    """
    size = 1 if hydra.runs_here else max(len(jobs), 1)
    numbers = list(jobs)
    for start in range(0, len(numbers), size):
        yield from _run_together(hydra, job, {number: jobs[number] for number in numbers[start : start + size]})


def _run_together(hydra: Hydra, job: SweepJob, jobs: Jobs) -> Iterator[Progress]:
    together, alone = dict(jobs), dict[int, Sequence[str]]()
    while together or alone:
        batch, was_alone, together = together or dict([alone.popitem()]), not together, {}
        yield from (JobStarted(number, tuple(own)) for number, own in batch.items())
        error = _launch(hydra, job, batch)
        left = {number: own for number, own in batch.items() if not has_ended(job.folder / str(number))}
        suspects = {number: own for number, own in left.items() if (job.folder / str(number)).exists()}
        if error is not None and hydra.is_queue:  # a job that has not ended may still wait in the queue
            yield LauncherFailed(_reason(error))
        elif error is not None and (was_alone or not suspects):
            _give_up(job.folder, left, error)
        elif error is not None:
            alone.update(suspects)
            together = {number: own for number, own in left.items() if number not in suspects}
        yield from _ended(job.folder, batch)


def _launch(hydra: Hydra, job: SweepJob, jobs: Jobs) -> Exception | None:
    """Run jobs on the launcher and wait for them; returns the error of a launcher that failed itself."""
    try:
        _note_failures(hydra.launch(job, list(jobs.values()), list(jobs)), job.folder, jobs)
    except Exception as error:  # a launcher or a worker may die in any way
        _wait(hydra, job.folder, jobs)
        return error
    return None


def _ended(folder: Path, jobs: Jobs) -> Iterator[JobEnded]:
    for number in jobs:
        if has_ended(folder / str(number)):
            yield JobEnded(number, read_row(folder / str(number)))


def _note_failures(returned: Sequence[object], folder: Path, jobs: Jobs) -> None:
    """Note the failures that happened before a job could note them itself, such as in Hydra's own composition."""
    for number, one in zip(jobs, returned, strict=False):
        error = getattr(one, "_return_value", None)
        if isinstance(error, BaseException) and not has_ended(folder / str(number)):
            mark_failed(folder / str(number), jobs[number], error)


def _wait(hydra: Hydra, folder: Path, jobs: Jobs) -> None:
    """Wait for jobs that still run although their launcher failed."""
    last, patience = time.monotonic(), 0.0 if hydra.ends_with_its_jobs else QUIET
    while not all(has_ended(folder / str(number)) for number in jobs):
        if any(is_claimed(folder / str(number)) for number in jobs):
            last = time.monotonic()
        elif time.monotonic() - last >= patience:
            return
        time.sleep(0.2)


def _give_up(folder: Path, jobs: Jobs, error: Exception) -> None:
    for number, own in jobs.items():
        mark_failed(folder / str(number), own, f"the launcher gave up: {_reason(error)}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}"
