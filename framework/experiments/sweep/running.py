"""`paredown run -m`: every combination of the swept values, each a job of its own, on any of Hydra's launchers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from paredown.framework.cli.console import print_problem
from paredown.framework.cli.sweep import print_table
from paredown.framework.cli.sweep_bar import sweep_bar
from paredown.framework.experiments.sweep.claims import is_claimed
from paredown.framework.experiments.sweep.collecting import Sweep, collect
from paredown.framework.experiments.sweep.hydra import Hydra, hydra_around
from paredown.framework.experiments.sweep.job import SweepJob, is_finished, is_through, mark_failed
from paredown.framework.experiments.sweep.manifest import FILE, Manifest, read_manifest, write_manifest
from paredown.framework.experiments.sweep.overrides import check_jobs, combinations
from paredown.framework.experiments.sweep.page import html_page
from paredown.framework.experiments.sweep.row import is_job
from paredown.framework.experiments.sweep.search import check_search, search
from paredown.framework.experiments.task_loading import load_task
from paredown.framework.recipe import Recipe
from paredown.framework.storage.files import write_text

__all__ = ["go_on", "run_jobs", "start"]

#: seconds without a running job after which a cluster's launcher that failed is no longer waited for
QUIET = 10.0


def start(recipe: Recipe, wanted: Manifest, output: Path | None, hidden: bool, as_json: bool) -> None:
    """Check every job, then run them in a new folder.

    Raises:
        RecipeError: a job's recipe does not hold; with the mistakes of all jobs, before any of them starts.
        typer.BadParameter, typer.Exit: wrong use; jobs failed.
    """
    if wanted.trials:
        check_search(recipe, wanted)
    else:
        jobs = combinations(wanted.overrides)
        check_jobs(recipe, jobs)
        wanted = dataclasses.replace(wanted, jobs=tuple(jobs))
    load_task(wanted.task)
    folder = _free_folder(output)
    with hydra_around(wanted.recipe_text, folder, wanted.hydra) as hydra:
        for override in dict.fromkeys(one for job in wanted.jobs for one in job):
            hydra.check(override)
        wanted = dataclasses.replace(wanted, threads=hydra.threads(wanted.trials or len(wanted.jobs)))
        _write_manifest(folder, wanted)
        _run(wanted, folder, hydra, hidden, as_json)


def go_on(folder: Path, hydra_overrides: Sequence[str], hidden: bool, as_json: bool) -> None:
    """Run what a sweep left: jobs that did not start, that were killed (from their last epoch), and that failed.

    Raises:
        ParedownError: the folder holds no sweep.
    """
    wanted = read_manifest(folder)
    with hydra_around(wanted.recipe_text, folder, hydra_overrides or wanted.hydra) as hydra:
        _run(wanted, folder, hydra, hidden, as_json)


def run_jobs(hydra: Hydra, job: SweepJob, jobs: Mapping[int, Sequence[str]]) -> None:
    """Run numbered jobs; what fails is noted in its folder, also where it takes the launcher down with it.

    After that, the jobs that ran then are run alone, which shows which one it was, and the others go on.
    """
    together, alone = dict(jobs), dict[int, Sequence[str]]()
    while together or alone:
        batch, was_alone, together = together or dict([alone.popitem()]), not together, {}
        try:
            _note_failures(hydra.launch(job, list(batch.values()), list(batch)), job.folder, batch)
        except Exception as error:  # a launcher or a worker may die in any way
            _settle(hydra, job.folder, batch)
            left = {number: own for number, own in batch.items() if not is_through(job.folder / str(number))}
            suspects = {number: own for number, own in left.items() if (job.folder / str(number)).exists()}
            if hydra.launcher == "SlurmLauncher":  # what is not through may still be in the queue
                print_problem(f"the launcher gave up: {type(error).__name__}: {error}")
            elif was_alone or not suspects:
                _give_up(job.folder, left, error)
            else:
                alone.update(suspects)
                together = {number: own for number, own in left.items() if number not in suspects}


def _run(wanted: Manifest, folder: Path, hydra: Hydra, hidden: bool, as_json: bool) -> None:
    hidden = hidden or as_json
    job = SweepJob(wanted, folder.resolve())
    left = {n: own for n, own in enumerate(wanted.jobs) if not is_finished(folder / str(n))}
    if not hidden:
        done = len(wanted.jobs) - len(left)
        told = f", {done} of them finished" if done else ""
        typer.echo(f"{folder}: {wanted.trials or len(wanted.jobs)} jobs{told}")
    with _stoppable(folder):
        if wanted.trials:
            search(hydra, job, run_jobs)
        else:
            with sweep_bar([folder / str(number) for number in range(len(wanted.jobs))], hidden):
                run_jobs(hydra, job, left)
    _tell(collect([folder]), folder, hidden, as_json)


def _tell(found: Sweep, folder: Path, hidden: bool, as_json: bool) -> None:
    write_text(folder / "sweep.html", html_page(found, f"Sweep {folder}"))
    if as_json or not hidden:
        print_table(found, as_json)
    if not hidden:
        typer.echo(f"{folder / 'sweep.html'} written")
    failed = found.in_state("failed")
    if failed:
        print_problem(f"{len(failed)} of {len(found.rows)} jobs failed; the whole error is in error.txt of each")
    if left := found.in_state("unfinished", "waiting"):
        print_problem(f"{len(left)} jobs are not through; paredown run --resume {folder}")
    if failed or left:
        raise typer.Exit(1)


@contextmanager
def _stoppable(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print_problem(f"stopped; go on with: paredown run --resume {folder}")
        raise


def _free_folder(output: Path | None) -> Path:
    """The folder of a new sweep.

    Raises:
        typer.BadParameter: it holds results already (wrong use, exit code 2).
    """
    now = Path("runs", time.strftime("sweep-%Y-%m-%d-%H-%M-%S"))
    folder, number = output or now, 1
    while output is None and folder.exists():
        number += 1
        folder = now.with_name(f"{now.name}-{number}")
    if (folder / FILE).exists():
        raise typer.BadParameter(f"{folder} holds a sweep; paredown run --resume {folder}", param_hint="--output")
    if folder.exists() and is_job(folder):
        raise typer.BadParameter(f"{folder} holds the results of a run", param_hint="--output")
    return folder


def _write_manifest(folder: Path, wanted: Manifest) -> None:
    try:
        write_manifest(folder, wanted)
    except OSError as error:
        raise typer.BadParameter(f"{folder} cannot be written: {error.strerror}", param_hint="--output") from error


def _note_failures(returned: Sequence[object], folder: Path, jobs: Mapping[int, Sequence[str]]) -> None:
    """Note what failed before a job could note it itself, such as in Hydra's own composition."""
    for number, one in zip(jobs, returned, strict=False):
        error = getattr(one, "_return_value", None)
        if isinstance(error, BaseException) and not is_through(folder / str(number)):
            mark_failed(folder / str(number), jobs[number], error)


def _settle(hydra: Hydra, folder: Path, jobs: Mapping[int, Sequence[str]]) -> None:
    """Wait for jobs that go on although their launcher gave up."""
    last, patience = time.monotonic(), 0.0 if hydra.launcher == "JoblibLauncher" else QUIET
    while not all(is_through(folder / str(number)) for number in jobs):
        if any(is_claimed(folder / str(number)) for number in jobs):
            last = time.monotonic()
        elif time.monotonic() - last >= patience:
            return
        time.sleep(0.2)


def _give_up(folder: Path, jobs: Mapping[int, Sequence[str]], error: Exception) -> None:
    told = f"the launcher gave up: {type(error).__name__}: {str(error).strip()}"
    for number, own in jobs.items():
        mark_failed(folder / str(number), own, told)
