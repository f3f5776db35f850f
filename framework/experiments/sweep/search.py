"""`paredown run --sweeper optuna`: a search for the Pareto front instead of all combinations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from paredown.framework.errors import ParedownError
from paredown.framework.experiments.sweep.hydra import Hydra
from paredown.framework.experiments.sweep.job import SweepJob
from paredown.framework.experiments.sweep.manifest import Manifest
from paredown.framework.experiments.sweep.overrides import check_jobs, check_range, parsed
from paredown.framework.experiments.sweep.row import QUANTITIES, read_row
from paredown.framework.recipe import Recipe

__all__ = ["OBJECTIVES", "check_search", "search"]

#: the objectives, and whether more or less of each is wanted
OBJECTIVES = {name: "maximize" if name in ("accuracy", "sparsity") else "minimize" for name in QUANTITIES}
DATABASE = "optuna.db"

RunJobs = Callable[[Hydra, SweepJob, Mapping[int, Sequence[str]]], None]


def check_search(recipe: Recipe, wanted: Manifest) -> None:
    """Refuse a search that cannot be: nothing to vary, ranges whose ends make no recipe, optuna missing.

    Raises:
        RecipeError: an end of a range does not hold, with the mistakes of all.
        ParedownError: optuna is not installed.
        typer.BadParameter: nothing is varied (wrong use, exit code 2).
    """
    space = _space(wanted.overrides)
    if not space.ranges:
        raise typer.BadParameter("nothing is varied; write a.b=interval(0.5,0.98) or a.b=1,2,3", param_hint="OVERRIDE")
    check_jobs(recipe, (space.overrides(values) for values in _ends(space)))


def search(hydra: Hydra, job: SweepJob, run_jobs: RunJobs) -> None:
    """Ask for trials, run them as jobs, and tell what they gave, until there are enough of them.

    The trials lie in an SQLite file in the sweep's folder. What is asked for depends on the trials before it and on
    nothing else, so a search that was killed goes on as if it had not been.
    """
    wanted = job.manifest
    space, study = _space(wanted.overrides), _study(job.folder, wanted.objectives)
    while True:
        open_trials = {one.number: one.params for one in study.trials if not one.state.is_finished()}
        count = min(hydra.batch(wanted.trials), wanted.trials - len(study.trials))
        for _ in range(count if not open_trials else 0):
            study.sampler = _sampler(len(study.trials))
            trial = study.ask(space.ranges)
            open_trials[trial.number] = trial.params
        if not open_trials:
            return
        run_jobs(hydra, job, {number: space.overrides(values) for number, values in open_trials.items()})
        for number in open_trials:
            _tell(study, number, job.folder / str(number), wanted.objectives)


@dataclass(frozen=True)
class _Space:
    """What is varied (by the override's key), and what is set for all."""

    ranges: Mapping[str, Any]
    fixed: Sequence[str]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a job."""
        return [*self.fixed, *(f"{key}={_text(self.ranges[key], value)}" for key, value in values.items())]


def _space(overrides: Sequence[str]) -> _Space:
    read = parsed(overrides)
    fixed = [one.input_line for one in read if not one.is_sweep_override()]
    return _Space({one.get_key_element(): _range(one) for one in read if one.is_sweep_override()}, fixed)


def _range(override: Any) -> Any:
    """The distribution of an override: an interval, a range with a step, or a choice."""
    optuna = _optuna()
    given = override.value()
    tags = getattr(given, "tags", ())
    if override.is_interval_sweep():
        whole = isinstance(given.start, int) or "int" in tags
        kind = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
        convert = int if whole else float
        if given.start > given.end or ("log" in tags and given.start <= 0):
            told = f"{override.input_line}: an interval goes from the smaller to the larger, of log from above 0"
            raise typer.BadParameter(told, param_hint="OVERRIDE")
        return kind(convert(given.start), convert(given.end), log="log" in tags)
    check_range(override)
    texts = list(override.sweep_string_iterator())
    if override.is_range_sweep() and len(texts) > 1:
        numbers = sorted(yaml.safe_load(text) for text in texts)
        whole = all(isinstance(number, int) for number in numbers)
        kind = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
        return kind(numbers[0], numbers[-1], step=numbers[1] - numbers[0])
    return optuna.distributions.CategoricalDistribution(texts)


def _text(space: Any, value: Any) -> str:
    """A value as an override has it; a number keeps six digits."""
    if not isinstance(value, float):
        return str(value)
    return repr(min(max(float(f"{value:.6g}"), space.low), space.high))


def _ends(space: _Space) -> Iterator[dict[str, Any]]:
    """Values at the ends of each range, and every choice, the others at their first."""
    ends = {name: getattr(one, "choices", None) or (one.low, one.high) for name, one in space.ranges.items()}
    first = {name: values[0] for name, values in ends.items()}
    for name, values in ends.items():
        yield from ({**first, name: value} for value in values)


def _study(folder: Path, objectives: Sequence[str]) -> Any:
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="paredown",
        storage=f"sqlite:///{folder / DATABASE}",
        directions=[OBJECTIVES[name] for name in objectives],
        load_if_exists=True,
    )


def _sampler(seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is experimental in a sampler is not the user's business
        return _optuna().samplers.TPESampler(seed=seed, constant_liar=True)


def _tell(study: Any, number: int, folder: Path, objectives: Sequence[str]) -> None:
    row = read_row(folder) if folder.exists() else None
    values = [] if row is None else [row.compressed.get(name) for name in objectives]
    if row is not None and row.state == "finished" and None not in values:
        study.tell(number, values)
    elif row is None or row.state in ("failed", "finished"):
        study.tell(number, state=_optuna().trial.TrialState.FAIL)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ParedownError("a search needs optuna: pip install 'paredown[sweep]'") from None
    return optuna
