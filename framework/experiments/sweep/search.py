"""A search for the Pareto front with optuna, instead of all combinations."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from paredown.framework.experiments.sweep.hydra import Hydra
from paredown.framework.experiments.sweep.job import SweepJob
from paredown.framework.experiments.sweep.launching import run_jobs
from paredown.framework.experiments.sweep.progress import Progress
from paredown.framework.experiments.sweep.row import read_row
from paredown.framework.experiments.sweep.search_space import SearchSpace, optuna

__all__ = ["search"]

DATABASE = "optuna.db"


def search(hydra: Hydra, job: SweepJob) -> Iterator[Progress]:
    """Ask optuna for trials, run them as jobs, and report their results to it, until all trials have run.

    The trials lie in an SQLite file in the sweep's folder. Each depends on the trials before it and on nothing else, so
    a search that was killed continues as if it had not been.
    """
    wanted = job.manifest
    space, study = SearchSpace.of(wanted.overrides), _study(job.folder, wanted.goals)
    while trials := _open_trials(study, space, hydra.batch(wanted.trials), wanted.trials):
        yield from run_jobs(hydra, job, {number: space.overrides(values) for number, values in trials.items()})
        for number in trials:
            _report(study, number, job.folder / str(number), wanted.objectives)


def _open_trials(study: Any, space: SearchSpace, batch: int, trials: int) -> dict[int, dict[str, Any]]:
    """The values of the trials that a killed search left, or of the next ones, by their number."""
    left = {one.number: one.params for one in study.trials if not one.state.is_finished()}
    if left:
        return left
    new = {}
    for _ in range(min(batch, trials - len(study.trials))):
        study.sampler = _sampler(len(study.trials))
        trial = study.ask(space.ranges)
        new[trial.number] = trial.params
    return new


def _study(folder: Path, goals: Sequence[str]) -> Any:
    optuna().logging.set_verbosity(optuna().logging.WARNING)
    return optuna().create_study(
        study_name="paredown",
        storage=f"sqlite:///{folder / DATABASE}",
        directions=[f"{goal}imize" for goal in goals],
        load_if_exists=True,
    )


def _sampler(seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which options of a sampler are experimental does not matter to the user
        return optuna().samplers.TPESampler(seed=seed, constant_liar=True)


def _report(study: Any, number: int, folder: Path, objectives: Sequence[str]) -> None:
    """Report the result of a job to optuna, unless the job is still to be run."""
    row = read_row(folder) if folder.exists() else None
    values = [] if row is None else [row.compressed.get(name) for name in objectives]
    if row is not None and row.state == "finished" and None not in values:
        study.tell(number, values)
    elif row is None or row.state in ("failed", "finished"):
        study.tell(number, state=optuna().trial.TrialState.FAIL)
