"""The overrides of a sweep: split into Hydra's and the recipe's, multiplied into jobs, checked job by job."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from paredown.framework.errors import ArgumentError, Mistake, RecipeError
from paredown.framework.recipe import Recipe

__all__ = ["check_jobs", "check_range", "combinations", "parsed", "recipe_overrides", "split_hydra"]

_HYDRA = re.compile(r"[+~]*hydra[./@=]")
_NUMBERED = re.compile(r"override (\d+)")
MOST_JOBS = 100_000
MOST_MISTAKES = 50


def split_hydra(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split overrides into those of the recipe and those of Hydra itself.

    >>> split_hydra(["run.epochs=3", "hydra/launcher=joblib", "+hydra.launcher.ray.init.num_cpus=2"])
    (['run.epochs=3'], ['hydra/launcher=joblib', '+hydra.launcher.ray.init.num_cpus=2'])
    """
    overrides = list(overrides)
    return [one for one in overrides if not _HYDRA.match(one)], [one for one in overrides if _HYDRA.match(one)]


def parsed(overrides: Sequence[str]) -> list[Any]:
    """Parse overrides by Hydra's grammar.

    Raises:
        ArgumentError: an override is not of that grammar.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return list(OverridesParser.create().parse_overrides(list(overrides)))
    except HydraException as error:
        raise ArgumentError(str(error).strip().split("\n")[0], "overrides") from None


def combinations(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of the values to sweep, the last override fastest.

    >>> combinations(["run.epochs=3", "modifiers.prune.end=1,2"])
    [('run.epochs=3', 'modifiers.prune.end=1'), ('run.epochs=3', 'modifiers.prune.end=2')]

    Raises:
        ArgumentError: a range without values, or too many jobs.
    """
    values = [_values(one) for one in parsed(overrides)]
    count = 1
    for some in values:
        count *= len(some)
    if count > MOST_JOBS:
        raise ArgumentError(f"{count:,} combinations; at most {MOST_JOBS:,} are run", "overrides")
    return list(itertools.product(*values))


def recipe_overrides(overrides: Sequence[str]) -> list[str]:
    """Translate one job's overrides from Hydra's grammar to the recipe's, which is YAML.

    >>> recipe_overrides(["a.b='500 steps'", "a.c=[x,1e-3]", "~a.d"])
    ['a.b="500 steps"', 'a.c=["x", 0.001]', '~a.d']
    """
    return [_recipe_override(one) for one in parsed(overrides)]


def check_jobs(recipe: Recipe, jobs: Iterable[Sequence[str]]) -> None:
    """Load the recipe of every job, to find the mistakes of all.

    Raises:
        RecipeError: with the mistakes of all jobs; each names the override as its file.
    """
    mistakes: dict[Mistake, None] = {}
    for job in jobs:
        try:
            Recipe.load(recipe, recipe_overrides(job))
        except RecipeError as error:
            mistakes.update(dict.fromkeys(_placed(mistake, job) for mistake in error.errors))
        if len(mistakes) >= MOST_MISTAKES:
            break
    if mistakes:
        raise RecipeError(list(mistakes))


def _values(override: Any) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line]
    if override.value_type is not None and override.value_type.name == "GLOB_CHOICE_SWEEP":
        raise ArgumentError(
            f"{override.input_line}: glob chooses files of a config group, and a recipe has none", "overrides"
        )
    if not override.is_discrete_sweep():
        raise ArgumentError(
            f"{override.input_line}: a range without single values is searched with --sweeper optuna, in Python trials",
            "overrides",
        )
    check_range(override)
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def check_range(override: Any) -> None:
    """Refuse a range of too many values, because Hydra walks through all of them.

    Raises:
        ArgumentError: it has too many values.
    """
    if not override.is_range_sweep():
        return
    given = override.value()
    if given.step == 0 or abs(given.stop - given.start) > MOST_JOBS * abs(given.step):
        raise ArgumentError(f"{override.input_line}: at most {MOST_JOBS:,} jobs are run", "overrides")


def _recipe_override(override: Any) -> str:
    key = override.get_key_element()
    if override.is_delete():
        return str(key)
    return f"{key}={json.dumps(override.value(), ensure_ascii=False, default=str)}"


def _placed(mistake: Mistake, job: Sequence[str]) -> Mistake:
    number = _NUMBERED.fullmatch(mistake.file or "")
    return mistake if number is None else dataclasses.replace(mistake, file=job[int(number[1]) - 1])
