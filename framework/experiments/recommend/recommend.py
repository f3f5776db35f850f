"""`recommend`: from a task or a model and budgets to a recipe that meets them, found by trying."""

from __future__ import annotations

import copy
import re
import shutil
import time as clock
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import nn

from paredown.framework.engine.exporting import export
from paredown.framework.engine.registry import DEFAULT, engine_called
from paredown.framework.errors import ArgumentError, ExportError, first_line
from paredown.framework.experiments.recommend.budgets import Budget, parse_budgets
from paredown.framework.experiments.recommend.costs import file_costs
from paredown.framework.experiments.recommend.mixtures import known_choices
from paredown.framework.experiments.recommend.recommendation import Recommendation
from paredown.framework.experiments.recommend.search import Candidate, Search
from paredown.framework.experiments.recommend.trials import Trials
from paredown.framework.experiments.seeds import combined
from paredown.framework.experiments.task import Task
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report
from paredown.framework.report.evidence import repeatable, with_evidence
from paredown.framework.report.metrics import Metric, named
from paredown.framework.run.checkpoint import load

__all__ = ["check_folder", "recommend", "seconds_in"]

#: of a folder, where trials are kept
SEARCH = "search"
TIME = re.compile(r"(\d+(?:\.\d*)?)\s*(s|m|min|h)?")
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, None: 1}


def recommend(
    task: Task | nn.Module,
    budgets: Sequence[str],
    *,
    engine: str = DEFAULT,
    time: str | float = "30m",
    seed: int = 0,
    output: str | Path | None = None,
    source: str = "",
    data: Iterable[Any] | None = None,
    evaluate: Callable[[nn.Module], float | Mapping[str, float]] | None = None,
    example_inputs: Any = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Recommendation:
    """Find a recipe whose model, in an engine, meets budgets at the least loss.

    What a file costs is measured without training (apply, write, run); what a technique does to the model is learned
    from short runs; the most promising mixture of techniques is then trained in full. Everything that is tried is an
    ordinary recipe, run by ordinary means.

    Args:
        task: a training job; or a trained model, for which only methods without training are searched.
        budgets: such as ``"bytes <= 0.1x"``, ``"latency <= 2.5"`` (milliseconds), ``"accuracy >= dense - 0.01"``; on
            bytes, zipped, latency, macs, parameters and the task's metrics. ``0.1x``: of the dense model's.
        engine: for which the model is made.
        time: how long it may take: seconds, or "90s", "30m", "2h". It stops earlier where the budgets are met.
        output: a folder, from which a search that was killed goes on; by default a temporary one.
        source: the task as ``module:function``, by which `paredown verify` runs the recipe again.
        data, evaluate, example_inputs: of a model: batches for calibration, what it reaches, its arguments.
        tell: is called with a line whenever something takes time.

    Raises:
        ArgumentError: a budget or the time cannot be read, or something is missing.
        ExportError: the engine is not installed, or cannot run the model.
    """
    begin, limit = clock.monotonic(), seconds_in(time)
    program, one_shot = engine_called(engine), isinstance(task, nn.Module)
    job = _job_of(task, data, evaluate, example_inputs, seed) if isinstance(task, nn.Module) else task
    metrics = _metrics_of(job)
    wanted = parse_budgets(budgets, metrics)
    folder = Path(mkdtemp() if output is None else output)
    trials = Trials(job, program, folder / SEARCH, one_shot, seed)
    tell(f"the dense model{'' if one_shot else f', {job.dense_epochs} epochs'}")
    trials.begin()
    known = known_choices(not one_shot)
    trials.beside = tuple(each for stage in ("teacher", "rate") for each in known[stage][:1]
                          if (stage == "teacher" or job.scheduler is None) and trials.works(each))  # fmt: skip
    acting = [each for stage in ("shape", "zeros", "values", "grid") for each in known[stage]]
    search = Search(trials, wanted, _deciding(wanted, metrics), acting, 0.9 * limit - (clock.monotonic() - begin), tell)
    found = _Ending(search, search.run(), folder, source).recommendation()
    if output is None:
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def seconds_in(time: str | float) -> float:
    """A length of time in seconds.

    Raises:
        ArgumentError: it cannot be read.

    >>> seconds_in("1.5m")
    90.0
    """
    match = TIME.fullmatch(str(time).strip())
    if match is None or float(match[1]) <= 0:
        raise ArgumentError(f"the time {time!r}: seconds, or 90s, 30m, 2h", "time")
    return float(match[1]) * UNITS[match[2]]


def check_folder(folder: Path, resume: bool) -> None:
    """Refuse a folder with another search's files, unless that is to go on.

    Raises:
        ArgumentError: there are some, or none where a search is to go on.
    """
    there = (folder / SEARCH).is_dir()
    if there and not resume:
        raise ArgumentError(f"{folder} holds a search: --resume goes on with it; or give another folder", "folder")
    if resume and not there:
        raise ArgumentError(f"{folder} holds no search that could go on", "folder")


class _Ending:
    """From the best candidate to the recommendation: its file, its proof, its recipe."""

    def __init__(self, search: Search, best: Candidate, folder: Path, source: str) -> None:
        self.search, self.best, self.folder, self.source = search, best, folder, source
        self.trials = search.trials

    def recommendation(self) -> Recommendation:
        file = self._file()
        if file is not None:
            costs = {**self.best.costs, **file_costs(self.trials.engine, file)}
            self.best = self.search.note(self.best.mixture, self.best.epochs, costs, self.best.measured)
        report = self._report()
        recipe = Recipe.load(_with_results(self._recipe(), report, self.trials.task.name))
        others = sorted(self.search.candidates.values(), key=lambda one: (one.missed, -one.epochs))
        candidates = [self.best, *(one for one in others if one is not self.best)]
        return Recommendation(
            recipe, not self.best.excess, report, self.search.budgets, candidates, self._reasons(),
            {**self.trials.dense_costs, **self.trials.dense_measured}, self.trials.one_shot, file,
        )  # fmt: skip

    def _recipe(self) -> Recipe:
        return self.trials.recipe(self.best.mixture, self.best.epochs)

    def _report(self) -> Report:
        report = combined([self.trials.outcome(self.best.mixture, self.best.epochs)], self.trials.task)
        return repeatable(report, self.source, [self.trials.seed], self.trials.one_shot) if self.source else report

    def _file(self) -> Path | None:
        """The best candidate's model for the engine."""
        task, path = self.trials.task, self.folder / f"model{self.trials.engine.suffix}"
        try:
            model = load(self.trials.checkpoint(self.best.mixture, self.best.epochs), task.build_model())
            export(model, task.example_inputs, path, engine=self.trials.engine.name, data=task.train_loader,
                   allow_slower=True, packed=bool(self.trials.engine.profile.folds), repetitions=0)  # fmt: skip
        except ExportError as error:
            self.search.reasons.append(f"the file was not written: {first_line(error)}")
            return None
        return path

    def _reasons(self) -> list[str]:
        reasons = list(dict.fromkeys(self.search.reasons))
        if errors := self.search.table.error():
            told = ", ".join(f"{name} {error:.0%}" for name, error in errors.items())
            reasons.append(f"costs of mixtures, estimated from those of single techniques, were off by {told} (median)")
        better = [one for one in self.search.candidates.values() if one is not self.best and not one.excess]
        if better:
            reasons.append(f"the next choice: {better[0].mixture.words}")
        if self.best.excess:
            reasons.append("to come nearer: more time, a longer training, or a wider budget on " + ", ".join(
                one.name for one in self.search.budgets if one.text in self.best.excess))  # fmt: skip
        return reasons or ["every technique that is known here was tried"]


def _with_results(recipe: Recipe, report: Report, task: str) -> dict[str, Any]:
    from paredown.framework.recipe.tree.yaml_nodes import read_yaml

    values: dict[str, Any] = read_yaml(with_evidence(recipe.to_yaml(), report, task), "recipe")[0].plain()
    return values


def _metrics_of(task: Task) -> tuple[Metric, ...]:
    """The metrics of a task, known from those of an untrained model where none are declared."""
    model = task.build_model().eval()
    metrics, _ = named(task.known_metrics, [task.measure(model)])
    return metrics


def _deciding(budgets: Sequence[Budget], metrics: Sequence[Metric]) -> Metric:
    """The metric of a budget, else the task's first."""
    asked = [budget.name for budget in budgets if not budget.is_cost]
    return next((metric for metric in metrics if metric.name in asked), metrics[0])


def _job_of(model: nn.Module, data: Any, evaluate: Any, example_inputs: Any, seed: int) -> Task:
    """A job that trains nothing."""
    needed = {"data": data, "evaluate": evaluate, "example_inputs": example_inputs}
    missing = [name for name, given in needed.items() if given is None]
    if missing:
        raise ArgumentError(f"of a model, recommend needs {', '.join(missing)} too", missing[0])
    return Task(
        name=type(model).__name__, build_model=lambda: copy.deepcopy(model).eval(), train_loader=data,
        evaluate=evaluate, optimizer=lambda each: torch.optim.SGD(each.parameters(), 0.0),
        example_inputs=example_inputs, dense_epochs=0, seeds=(seed,),
    )  # fmt: skip
