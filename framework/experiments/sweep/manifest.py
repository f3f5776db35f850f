"""`sweep.json`: what a sweep is, so that it can be gone on with and what did not start yet is known."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.framework.errors import ParedownError
from paredown.framework.storage.files import write_text

__all__ = ["FILE", "Manifest", "read_manifest", "write_manifest"]

FILE = "sweep.json"


@dataclass(frozen=True)
class Manifest:
    """What `paredown run -m` was asked for.

    Attributes:
        recipe: its name; ``recipe_text`` the recipe without the overrides, with what it extends.
        task: module:function.
        working_folder: where the task is imported from.
        overrides: as given, with the values to sweep.
        hydra: the overrides that are Hydra's own, such as ``hydra/launcher=joblib``.
        seeds: how many; None for the task's own.
        one_shot: whether the recipe is applied without training.
        record: whether results are written into each job's recipe.
        threads: of each job; None for torch's own number.
        jobs: the overrides of each job, numbered from 0; a search has none.
        trials: of a search; 0 where all combinations are run.
        objectives: of a search.
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


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it into the sweep's folder."""
    write_text(folder / FILE, json.dumps(dataclasses.asdict(manifest), indent=2))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a sweep's folder.

    Raises:
        ParedownError: there is none, or it is damaged.
    """
    path = folder / FILE
    try:
        plain: Any = json.loads(path.read_text(encoding="utf-8"))
        jobs = tuple(tuple(map(str, job)) for job in plain.pop("jobs"))
        lists = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
        return Manifest(**{**plain, **lists, "jobs": jobs})
    except FileNotFoundError:
        raise ParedownError(f"{folder} is no sweep of `paredown run`: it has no {FILE}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ParedownError(f"{path} is damaged: {error}") from None
