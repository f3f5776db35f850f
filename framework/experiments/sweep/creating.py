"""Creating a sweep: check every job, and write the sweep's folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from paredown.framework.errors import ArgumentError, did_you_mean
from paredown.framework.experiments.sweep.hydra import Hydra, composed
from paredown.framework.experiments.sweep.manifest import FILE, Manifest, write_manifest
from paredown.framework.experiments.sweep.overrides import check_jobs, combinations, split_hydra
from paredown.framework.experiments.sweep.picking import sign_of
from paredown.framework.experiments.sweep.row import QUANTITIES, is_job
from paredown.framework.experiments.sweep.search_space import check_search
from paredown.framework.experiments.task import load_task
from paredown.framework.recipe import Recipe
from paredown.framework.report.metrics import ACCURACY, Metric

__all__ = ["create_sweep"]


def create_sweep(
    recipe: Recipe,
    task: str,
    overrides: Sequence[str] = (),
    folder: str | Path | None = None,
    *,
    seeds: int | None = None,
    one_shot: bool = False,
    record: bool = False,
    trials: int = 0,
    objectives: Sequence[str] | None = None,
) -> Path:
    """Check every job of a new sweep and write the sweep's folder, without running a job.

    Args:
        recipe: what every job runs, with other values.
        task: ``module:function``, imported from the current folder; the jobs may run in other processes.
        overrides: in Hydra's grammar, such as ``variables.sparsity=0.5,0.9``; also those of Hydra itself, such as
            ``hydra/launcher=joblib``.
        folder: a new one; by default runs/sweep-DATE-TIME.
        seeds: the number of seeds of a job; by default the task's own.
        one_shot: apply the recipe without training.
        record: write the results into the recipe of each job.
        trials: the number of jobs of a search; 0 runs all combinations of the values.
        objectives: the quantities that a search weighs against each other; by default the metric of the task that
            decides, and bytes.

    Returns:
        the folder of the sweep, for `run_sweep`.

    Raises:
        RecipeError: the recipe of a job does not hold; with the mistakes of all jobs.
        ArgumentError: an override, the task, the folder or an objective is wrong.
    """
    own, hydra_overrides = split_hydra(overrides)
    chosen, goals = _objectives(objectives, load_task(task).known_metrics or (ACCURACY,))
    wanted = Manifest(
        recipe=recipe.name,
        recipe_text=recipe.to_yaml(),
        task=task,
        working_folder=str(Path.cwd()),
        overrides=tuple(own),
        hydra=tuple(hydra_overrides),
        seeds=seeds,
        one_shot=one_shot,
        record=record,
        trials=trials,
        objectives=chosen if trials else (),
        goals=goals if trials else (),
    )
    wanted = _with_jobs(wanted, recipe)
    place = _new_folder(folder)
    with composed(wanted.recipe_text, place, wanted.hydra) as hydra:
        _write(place, _checked_by_hydra(wanted, hydra))
    return place


def _objectives(given: Sequence[str] | None, metrics: Sequence[Metric]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The objectives of a search, and whether each is to be ``max`` or ``min``."""
    objectives = (metrics[0].name, "bytes") if given is None else tuple(given)
    known = (*(metric.name for metric in metrics), *QUANTITIES)
    if unknown := [name for name in objectives if name not in known]:
        near = did_you_mean(unknown[0], known) or "; another metric is declared by Task(metrics={name: 'max' or 'min'})"
        raise ArgumentError(f"{unknown[0]!r}; one of {', '.join(known)}{near}", "objectives")
    signs = [sign_of(name, metrics, "objectives") for name in objectives]
    return objectives, tuple("max" if sign > 0 else "min" for sign in signs)


def _with_jobs(wanted: Manifest, recipe: Recipe) -> Manifest:
    """The manifest with the jobs of a sweep; those of a search are not known yet."""
    if wanted.trials:
        check_search(recipe, wanted)
        return wanted
    jobs = combinations(wanted.overrides)
    check_jobs(recipe, jobs)
    return dataclasses.replace(wanted, jobs=tuple(jobs))


def _checked_by_hydra(wanted: Manifest, hydra: Hydra) -> Manifest:
    """The manifest with the threads of each job, after Hydra composed every override."""
    for override in dict.fromkeys(one for job in wanted.jobs for one in job):
        hydra.check(override)
    return dataclasses.replace(wanted, threads=hydra.threads(wanted.count))


def _new_folder(given: str | Path | None) -> Path:
    if given is None:
        return _dated_folder()
    folder = Path(given)
    if (folder / FILE).exists():
        raise ArgumentError(f"{folder} holds a sweep; paredown run --resume {folder}", "folder")
    if folder.exists() and is_job(folder):
        raise ArgumentError(f"{folder} holds the results of a run", "folder")
    return folder


def _dated_folder() -> Path:
    now = Path("runs", time.strftime("sweep-%Y-%m-%d-%H-%M-%S"))
    folder, number = now, 1
    while folder.exists():
        number += 1
        folder = now.with_name(f"{now.name}-{number}")
    return folder


def _write(folder: Path, manifest: Manifest) -> None:
    try:
        write_manifest(folder, manifest)
    except OSError as error:
        raise ArgumentError(f"{folder} cannot be written: {error.strerror}", "folder") from error
