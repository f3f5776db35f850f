"""Running a sweep that was created: its jobs on one of Hydra's launchers, with an event for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from paredown.framework.errors import ArgumentError
from paredown.framework.experiments.sweep.collecting import collect
from paredown.framework.experiments.sweep.hydra import Hydra, hydra_around
from paredown.framework.experiments.sweep.job import SweepJob, is_finished
from paredown.framework.experiments.sweep.launching import run_jobs
from paredown.framework.experiments.sweep.manifest import Manifest, read_manifest
from paredown.framework.experiments.sweep.overrides import split_hydra
from paredown.framework.experiments.sweep.page import html_page
from paredown.framework.experiments.sweep.progress import Progress, SweepEnded, SweepStarted
from paredown.framework.experiments.sweep.search import search
from paredown.framework.storage.files import write_text

__all__ = ["run_sweep"]


def run_sweep(folder: str | Path, overrides: Sequence[str] = ()) -> Iterator[Progress]:
    """Run the jobs of a sweep that are not finished: new ones, killed ones (from their last epoch), and failed ones.

    Jobs run while the result is iterated. A job that fails writes ``error.txt`` and the others run on. At the end the
    page ``sweep.html`` is written.

    Args:
        folder: from `create_sweep`.
        overrides: of Hydra itself, such as ``hydra/launcher=joblib``, instead of those that the sweep was created with.

    Raises:
        ParedownError: the folder holds no sweep.
        ArgumentError: Hydra refuses an override, or an override is not Hydra's own.
    """
    own, hydra_overrides = split_hydra(overrides)
    if own:
        message = f"{own[0]}: a sweep goes on as it was started; another launcher is all that it takes"
        raise ArgumentError(message, "overrides")
    folder = Path(folder)
    return _run(read_manifest(folder), folder, hydra_overrides)


def _run(wanted: Manifest, folder: Path, hydra_overrides: Sequence[str]) -> Iterator[Progress]:
    left = {number: own for number, own in enumerate(wanted.jobs) if not is_finished(folder / str(number))}
    job = SweepJob(wanted, folder.resolve())
    with hydra_around(wanted.recipe_text, folder, hydra_overrides or wanted.hydra) as hydra:
        yield SweepStarted(folder, wanted.count, len(wanted.jobs) - len(left))
        yield from _jobs(hydra, job, left)
    ended = collect([folder])
    write_text(folder / "sweep.html", html_page(ended, f"Sweep {folder}"))
    yield SweepEnded(folder, ended)


def _jobs(hydra: Hydra, job: SweepJob, left: dict[int, tuple[str, ...]]) -> Iterator[Progress]:
    return search(hydra, job) if job.manifest.trials else run_jobs(hydra, job, left)
