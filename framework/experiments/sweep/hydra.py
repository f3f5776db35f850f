"""Hydra around a sweep: the config that it composes, and the launcher that runs the jobs."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paredown.framework.errors import ArgumentError

__all__ = ["Hydra", "composed", "hydra_around"]

#: the jobs that a search runs at once on a cluster
BATCH = 8
#: parts of a recipe where an override may set a field that the file does not have; the recipe itself checks it
OPEN = ("run", "variables", "modifiers")


@dataclass(frozen=True)
class Hydra:
    """A composed config, and its launcher.

    Attributes:
        config: the whole config, with Hydra's own node.
        context: Hydra's context for a launcher.
    """

    config: Any
    context: Any

    @property
    def launcher(self) -> str:
        """The name of the launcher's class."""
        return str(self.config.hydra.launcher._target_).rpartition(".")[2]

    def launch(self, job: Any, overrides: Sequence[Sequence[str]], names: Sequence[int]) -> Sequence[Any]:
        """Run jobs, each in the folder of its number; returns what Hydra returns for each.

        Raises:
            Exception: the launcher itself fails, such as when a worker process is killed.
        """
        from hydra.core.plugins import Plugins

        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=job, config=self.config
        )
        placed = [[*own, f"hydra.sweep.subdir='{name}'"] for own, name in zip(overrides, names, strict=True)]
        returned: Sequence[Any] = launcher.launch(placed, initial_job_idx=names[0])
        return returned

    def check(self, override: str) -> None:
        """Refuse an override that Hydra cannot compose.

        Raises:
            ArgumentError: with Hydra's own message.
        """
        with _refused():
            self.context.config_loader.load_sweep_config(self.config, [override])

    @property
    def runs_here(self) -> bool:
        """Whether the jobs run in this process, one after the other."""
        return self.launcher == "BasicLauncher"

    @property
    def ends_with_its_jobs(self) -> bool:
        """Whether no job runs any more when the launcher has failed."""
        return self.launcher in ("BasicLauncher", "JoblibLauncher")

    @property
    def is_queue(self) -> bool:
        """Whether a job may wait in a queue after the launcher has failed."""
        return self.launcher == "SlurmLauncher"

    def threads(self, jobs: int) -> int | None:
        """The number of cores for each job; None where the launcher or its cluster decides."""
        if self.launcher not in ("JoblibLauncher", "LocalLauncher"):
            return None
        return max(1, _cores() // max(1, min(self._at_once(jobs), jobs)))

    def batch(self, jobs: int) -> int:
        """How many of a search's jobs run at once."""
        at_once = {"BasicLauncher": 1, "JoblibLauncher": self._at_once(jobs), "LocalLauncher": _cores()}
        return max(1, min(at_once.get(self.launcher, BATCH), jobs))

    def _at_once(self, jobs: int) -> int:
        number = int(self.config.hydra.launcher.get("n_jobs", jobs))
        return number if number > 0 else max(1, _cores() + 1 + number)


@contextmanager
def hydra_around(recipe_text: str, folder: Path, overrides: Sequence[str]) -> Iterator[Hydra]:
    """Compose Hydra's config for the jobs of a sweep, and call Hydra's callbacks before and after them.

    Args and errors are those of `composed`.
    """
    with composed(recipe_text, folder, overrides) as hydra:
        name = _stored(recipe_text)
        hydra.context.callbacks.on_multirun_start(config=hydra.config, config_name=name)
        try:
            yield hydra
        finally:
            hydra.context.callbacks.on_multirun_end(config=hydra.config, config_name=name)


@contextmanager
def composed(recipe_text: str, folder: Path, overrides: Sequence[str]) -> Iterator[Hydra]:
    """Compose Hydra's config with a recipe as the primary one, unresolved.

    Args:
        folder: of the sweep.
        overrides: Hydra's own, such as ``hydra/launcher=joblib``.

    Raises:
        ArgumentError: Hydra refuses one of them.
    """
    from hydra import __version__, initialize
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import HydraContext, RunMode

    version: Any = {"version_base": None} if __version__.startswith("1.3") else {}  # 1.4 warns where it is given
    text = str(folder.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    quiet = [f"hydra/{one}=none" for one in ("hydra_logging", "job_logging") if not _names(overrides, f"hydra/{one}")]
    _refuse(overrides)
    with _refused(), initialize(config_path=None, job_name="paredown", **version):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config(
            config_name=_stored(recipe_text),
            overrides=[*quiet, *overrides, f"hydra.sweep.dir='{text}'"],
            run_mode=RunMode.MULTIRUN,
            with_log_configuration=False,
        )
        yield Hydra(config, HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config)))


def _stored(recipe_text: str) -> str:
    """Store the recipe in Hydra's config store, which lasts as long as the process; returns its name there."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    name = f"paredown_recipe_{zlib.crc32(recipe_text.encode()):08x}"
    store = ConfigStore.instance()
    if f"{name}.yaml" not in store.list(""):
        node: Any = OmegaConf.create(yaml.safe_load(recipe_text))
        for part in OPEN:
            if OmegaConf.is_dict(node.get(part)):
                OmegaConf.set_struct(node[part], False)
        store.store(name=name, node=node, provider="paredown")
    return name


def _refuse(overrides: Sequence[str]) -> None:
    if _names(overrides, "hydra.sweep.dir") or _names(overrides, "hydra.sweep.subdir"):
        raise ArgumentError("hydra.sweep: the folder of a sweep is set by --output, in Python by folder", "overrides")
    if _names(overrides, "hydra/sweeper"):
        raise ArgumentError("hydra/sweeper: a search is --sweeper optuna, in Python trials", "overrides")


def _names(overrides: Sequence[str], key: str) -> bool:
    return any(one.lstrip("+~").partition("=")[0] == key for one in overrides)


@contextmanager
def _refused() -> Iterator[None]:
    """Raise Hydra's errors about overrides as one of paredown's."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ArgumentError(str(error).strip(), "overrides") from None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
