"""Hydra's part of a sweep: its config around the recipe, and the launcher that starts the jobs."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

__all__ = ["Hydra", "hydra_around"]

#: how many jobs are asked for at once where the launcher's own limit is that of a cluster
BATCH = 8
#: parts of a recipe where an override may bring a field that is not written; the recipe's own rules check it
OPEN = ("run", "variables", "modifiers")


@dataclass(frozen=True)
class Hydra:
    """A composed config, and what a launcher needs.

    Attributes:
        config: the whole one, with Hydra's own node.
        context: what Hydra hands to a launcher.
    """

    config: Any
    context: Any

    @property
    def launcher(self) -> str:
        """The name of the launcher's class."""
        return str(self.config.hydra.launcher._target_).rpartition(".")[2]

    def launch(self, job: Any, overrides: Sequence[Sequence[str]], names: Sequence[int]) -> Sequence[Any]:
        """Run jobs, each in the folder of its number; gives Hydra's returns.

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
            typer.BadParameter: with Hydra's own words (wrong use, exit code 2).
        """
        with _told():
            self.context.config_loader.load_sweep_config(self.config, [override])

    def threads(self, jobs: int) -> int | None:
        """The share of the processor's cores that each job gets; None where the launcher or its cluster decides."""
        if self.launcher not in ("JoblibLauncher", "LocalLauncher"):
            return None
        return max(1, _cores() // max(1, min(self._at_once(jobs), jobs)))

    def batch(self, jobs: int) -> int:
        """How many of so many jobs it is worth to start together."""
        at_once = {"BasicLauncher": 1, "JoblibLauncher": self._at_once(jobs), "LocalLauncher": _cores()}
        return max(1, min(at_once.get(self.launcher, BATCH), jobs))

    def _at_once(self, jobs: int) -> int:
        number = int(self.config.hydra.launcher.get("n_jobs", jobs))
        return number if number > 0 else max(1, _cores() + 1 + number)


@contextmanager
def hydra_around(recipe_text: str, folder: Path, overrides: Sequence[str]) -> Iterator[Hydra]:
    """Compose Hydra's config with a recipe as the primary one, unresolved.

    Args:
        folder: of the sweep.
        overrides: Hydra's own, such as ``hydra/launcher=joblib``.

    Raises:
        typer.BadParameter: Hydra refuses one of them (wrong use, exit code 2).
    """
    from hydra import __version__, initialize
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import HydraContext, RunMode

    name = _stored(recipe_text)
    version: Any = {"version_base": None} if __version__.startswith("1.3") else {}  # 1.4 warns where it is given
    text = str(folder.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    quiet = [f"hydra/{one}=none" for one in ("hydra_logging", "job_logging") if not _names(overrides, f"hydra/{one}")]
    _refuse(overrides)
    with _told(), initialize(config_path=None, job_name="paredown", **version):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config(
            config_name=name,
            overrides=[*quiet, *overrides, f"hydra.sweep.dir='{text}'"],
            run_mode=RunMode.MULTIRUN,
            with_log_configuration=False,
        )
        callbacks = Callbacks(config)
        callbacks.on_multirun_start(config=config, config_name=name)
        try:
            yield Hydra(config, HydraContext(config_loader=hydra.config_loader, callbacks=callbacks))
        finally:
            callbacks.on_multirun_end(config=config, config_name=name)


def _stored(recipe_text: str) -> str:
    """The name under which Hydra knows the recipe; Hydra's store keeps what it has for the life of the process."""
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
        raise typer.BadParameter("the folder of a sweep is given by --output", param_hint="hydra.sweep")
    if _names(overrides, "hydra/sweeper"):
        raise typer.BadParameter("a search is --sweeper optuna", param_hint="hydra/sweeper")


def _names(overrides: Sequence[str], key: str) -> bool:
    return any(one.lstrip("+~").partition("=")[0] == key for one in overrides)


@contextmanager
def _told() -> Iterator[None]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise typer.BadParameter(str(error).strip(), param_hint="OVERRIDE") from None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
