"""The manifest of a sweep, `sweep.json`: its recipe, task and jobs, from which the sweep is run and resumed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from paredown.framework.errors import ParedownError
from paredown.framework.experiments.json_files import read_object, write_object

__all__ = ["FILE", "Manifest", "read_manifest", "write_manifest"]

FILE = "sweep.json"


@dataclass(frozen=True)
class Manifest:
    """The recipe, the task and the jobs of a sweep.

    Attributes:
        recipe: its name.
        recipe_text: the recipe as YAML, merged with those that it extends, without the overrides.
        task: module:function.
        working_folder: where the task is imported from.
        overrides: as given, with the values to sweep.
        hydra: the overrides that are Hydra's own, such as ``hydra/launcher=joblib``.
        seeds: the number of seeds of a job; None for the task's own.
        one_shot: whether the recipe is applied without training.
        record: whether results are written into each job's recipe.
        threads: of each job; None for torch's own number.
        jobs: the overrides of each job, numbered from 0; a search has none.
        trials: of a search; 0 where all combinations are run.
        objectives: of a search.
        goals: of each objective, whether it is to be ``max`` or ``min``.
    """

    recipe: str
    recipe_text: str
    task: str
    working_folder: str
    overrides: tuple[str, ...] = ()
    hydra: tuple[str, ...] = ()
    seeds: int | None = None
    one_shot: bool = False
    record: bool = False
    threads: int | None = None
    jobs: tuple[tuple[str, ...], ...] = ()
    trials: int = 0
    objectives: tuple[str, ...] = ()
    goals: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of all jobs."""
        return self.trials or len(self.jobs)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the sweep's folder."""
    write_object(folder / FILE, dataclasses.asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a sweep's folder.

    Raises:
        ParedownError: it is missing or damaged.
    """
    path = folder / FILE
    try:
        plain = read_object(path)
        jobs = tuple(tuple(map(str, job)) for job in plain.pop("jobs"))
        lists = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
        return Manifest(**{**plain, **lists, "jobs": jobs})
    except FileNotFoundError:
        raise ParedownError(f"{folder} is no sweep of `paredown run`: it has no {FILE}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ParedownError(f"{path} is damaged: {error}") from None
