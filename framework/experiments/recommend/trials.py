"""Trials: what mixtures cost and do without training, and what becomes of them in short and full runs; all of it is
kept in a folder, from which a killed search goes on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paredown.framework.engine.contract import Engine
from paredown.framework.engine.plain import plain_copy
from paredown.framework.errors import ExportError, ParedownError, first_line
from paredown.framework.experiments.json_files import read_object, write_object
from paredown.framework.experiments.outcome import Outcome
from paredown.framework.experiments.recommend.costs import costs_of
from paredown.framework.experiments.recommend.mixtures import Choice, Mixture
from paredown.framework.experiments.resuming import SeedFiles
from paredown.framework.experiments.seeds import compressed, run_seed, train_dense
from paredown.framework.experiments.task import Task
from paredown.framework.model.batches import Inputs
from paredown.framework.recipe import Recipe
from paredown.framework.report.metrics import Measured, named
from paredown.framework.run.manager import ScheduledManager
from paredown.framework.run.rehearsal import rehearsed

__all__ = ["AtOnce", "Trials"]

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class AtOnce:
    """A mixture that was applied without training: costs over the dense ones, what it reached, or why it cannot be."""

    costs: Mapping[str, float] = field(default_factory=dict)
    measured: Measured = field(default_factory=dict)
    refused: str = ""


@dataclass
class Trials:
    """The trials of one search.

    Attributes:
        task: the training job; of a model without one, a job that trains nothing.
        engine: for which the models are made.
        folder: where everything is kept.
        one_shot: whether recipes are applied without training.
        beside: what goes into every recipe that is trained.
        seconds: by key, how long a trained run took; and "dense".
    """

    task: Task
    engine: Engine
    folder: Path
    one_shot: bool
    seed: int
    beside: tuple[Choice, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    dense: nn.Module = field(default_factory=nn.Identity)
    dense_measured: Measured = field(default_factory=dict)
    dense_costs: Mapping[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Train the dense model, or load it, and measure its file."""
        begin = time.monotonic()
        self.dense = train_dense(self.task, self.seed, _silent, self._files("dense"))
        took = time.monotonic() - begin
        self.seconds["dense"] = self._kept("seconds", lambda: {"dense": took})["dense"]
        self.dense_measured = self._named(self.task.measure(self.dense))
        self._write_dense()
        self.dense_costs = self._kept("dense", lambda: costs_of(self.dense, self.inputs, self.engine))

    @property
    def inputs(self) -> Inputs:
        """What models are run with."""
        found = Inputs(self.dense)
        found.update(self.task.train_loader, self.task.example_inputs, None)
        return found

    @property
    def dense_file(self) -> Path:
        """The dense model's file in the engine."""
        return self.folder / f"dense{self.engine.suffix}"

    def at_once(self, mixture: Mixture) -> AtOnce:
        """What a mixture costs and reaches without training."""
        return AtOnce(**self._kept(mixture.key, lambda: self._applied(mixture)))

    def trained(self, mixture: Mixture, epochs: float) -> Measured:
        """What a mixture reaches in a run of so many epochs; applied without training: at once."""
        known = self._files(self.key(mixture, epochs)).load_outcome()
        if known is not None:
            return self._named(known.compressed)
        key, recipe = self.key(mixture, epochs), self.recipe(mixture, epochs)
        return self._kept(key, lambda: self._run(recipe, key), "runs")

    def outcome(self, mixture: Mixture, epochs: float) -> Outcome:
        """The whole outcome of a run that was made before, or is made now, as `paredown run` makes it."""
        key, recipe = self.key(mixture, epochs), self.recipe(mixture, epochs)
        files, begin = self._files(key), time.monotonic()
        found = files.load_outcome()
        if found is None:
            place = files.outcome.parent
            found = run_seed(self.task, recipe, self.seed, place, _silent, None, self.one_shot, files)
            self.seconds[key] = time.monotonic() - begin
        return found

    def _run(self, recipe: Recipe, key: str) -> Measured:
        files, begin = self._files(key), time.monotonic()
        model = train_dense(self.task, self.seed, _silent, files)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of short runs, whose windows are short
            place = files.half.with_name(CHECKPOINT)
            compressed(self.task, model, ScheduledManager(recipe), place, _silent, self.one_shot, files)
        files.clear()
        measured = self._named(self.task.measure(model))
        self.seconds[key] = time.monotonic() - begin
        return measured

    def recipe(self, mixture: Mixture, epochs: float) -> Recipe:
        """The recipe of a run."""
        if self.one_shot:
            return mixture.recipe(None, self.engine.name)
        return mixture.recipe(epochs, self.engine.name, self.beside)

    def key(self, mixture: Mixture, epochs: float) -> str:
        """The name of a run, also of its folder."""
        return mixture.key if self.one_shot else f"{mixture.key}-{epochs:g}"

    def checkpoint(self, mixture: Mixture, epochs: float) -> Path:
        """What a run left."""
        return self.folder / "runs" / self.key(mixture, epochs) / CHECKPOINT

    def works(self, choice: Choice) -> bool:
        """Whether a choice that does nothing to a file goes with the task: two training steps with it."""
        recipe = Mixture().recipe(2 / max(len(self.task.train_loader), 2), self.engine.name, (choice,))
        try:
            with torch.random.fork_rng():
                self._run(recipe, choice.key)
        except ParedownError:
            return False
        return True

    def _applied(self, mixture: Mixture) -> dict[str, Any]:
        epochs = None if self.one_shot else 1.0
        recipe = mixture.recipe(epochs, self.engine.name)
        try:
            model = rehearsed(recipe, self.dense, self.inputs, self.engine)
            costs = costs_of(model, self.inputs, self.engine, self.dense_file)
        except (ParedownError, RuntimeError, ValueError) as error:
            return {"refused": first_line(error)}
        ratios = {name: value / (1.0 if name == "latency" else max(self.dense_costs[name], 1e-12))
                  for name, value in costs.items()}  # fmt: skip
        return {"costs": ratios, "measured": dict(self._named(self.task.measure(model.eval())))}

    def _write_dense(self) -> None:
        try:
            self.engine.write(plain_copy(self.dense), self.task.example_inputs, self.dense_file)
        except ExportError as error:
            raise ExportError(f"the dense model cannot be written for {self.engine.name}: {error}") from error

    def _named(self, measured: Measured) -> Measured:
        _, (found,) = named(self.task.known_metrics, [measured])
        return found

    def _files(self, key: str) -> SeedFiles:
        return SeedFiles.of(self.seed, self.folder / "dense", self.folder / "runs" / key)

    def _kept(self, key: str, make: Callable[[], Mapping[str, Any]], kind: str = "costs") -> dict[str, Any]:
        """What was found of a key before, or what is found now."""
        path = self.folder / kind / f"{key}.json"
        try:
            return read_object(path)
        except (OSError, ValueError):
            found = dict(make())
            write_object(path, found)
            return found


def _silent(what: str, step: int, total: int, measured: Measured) -> None:
    pass
