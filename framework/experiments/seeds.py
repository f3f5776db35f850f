"""Running a recipe on a task under several seeds: train the dense model, run the recipe on it, compare both."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from paredown.framework.experiments.outcome import Outcome
from paredown.framework.experiments.resuming import SeedFiles
from paredown.framework.experiments.task import Task
from paredown.framework.experiments.training_loop import Progress, TrainingLoop
from paredown.framework.modifier.clock import Clock
from paredown.framework.modifier.run import Run
from paredown.framework.recipe import Recipe
from paredown.framework.report import Curve, Report
from paredown.framework.report.metrics import Measured, Metric, named
from paredown.framework.run.checkpoint import save
from paredown.framework.run.checks import check_one_shot, optimizers_of
from paredown.framework.run.manager import ScheduledManager
from paredown.framework.run.session import Session

__all__ = ["Show", "combined", "compressed", "run_seed", "run_seeds", "train_dense"]

#: receives a text, such as the plan of a run
Show = Callable[[str], None]


def run_seeds(
    task: Task,
    recipe: Recipe,
    seeds: Iterable[int],
    folder: Path,
    progress: Callable[[int], Progress],
    show: Show | None = None,
    one_shot: bool = False,
    dense: Path | None = None,
) -> Report:
    """Run a recipe under every seed and report on all together; the first seed's checkpoint lies in ``folder`` itself.

    Args:
        progress: returns, for a seed, the function that is called after each of its steps.
        show: is called with the plan, once.
        one_shot: apply the recipe without training.
        dense: a folder where dense models are kept for other jobs; given, the run can be killed and called again.
    """
    outcomes: list[Outcome] = []
    all_files: list[SeedFiles] = []
    checked = False
    for seed in seeds:
        place = folder / f"seed-{seed}" if outcomes else folder
        files = None if dense is None else SeedFiles.of(seed, dense, place)
        all_files += [] if files is None else [files]
        earlier = None if files is None else files.load_outcome()
        if earlier is None and not checked:
            _seed(seed)
            refuse_early(task, recipe, one_shot)
            checked = True
        shown = None if outcomes else show
        outcomes.append(earlier or run_seed(task, recipe, seed, place, progress(seed), shown, one_shot, files))
    report = combined(outcomes, task)
    for files in all_files:
        files.clear()
    return report


def refuse_early(task: Task, recipe: Recipe, one_shot: bool) -> None:
    """Refuse what can be refused before anything is trained, on a fresh model.

    Raises:
        ParedownError: the recipe does not fit the model or cannot be applied without training, or ``evaluate`` does not
            return what it should.
    """
    model = task.build_model()
    task.measure(model)
    if one_shot:
        check_one_shot(recipe.modifiers.values(), task.train_loader)
    run = Run(model, clock=None if one_shot else Clock(len(task.train_loader), recipe.run_epochs))
    run.take(task.train_loader, None, task.example_inputs, None)
    run.use([] if one_shot else optimizers_of(model, task.optimizer(model)))
    for name, modifier in recipe.modifiers.items():
        run.teachers.keep_initial(name, modifier.keeps_initial_model)
    Session.checked(recipe, run)


def run_seed(
    task: Task,
    recipe: Recipe,
    seed: int,
    folder: Path,
    progress: Progress,
    show: Show | None = None,
    one_shot: bool = False,
    files: SeedFiles | None = None,
) -> Outcome:
    """Run a recipe under one seed: train the dense model, show the plan, run the recipe, save the checkpoint."""
    dense = train_dense(task, seed, progress, files)
    reached = task.measure(dense)
    model = copy.deepcopy(dense)
    manager = ScheduledManager(recipe)
    length, example = len(task.train_loader), task.example_inputs
    plan = manager.plan(model, steps_per_epoch=length, example_inputs=example, rehearse=False)
    if show is not None:
        show(str(plan))
    curve = compressed(task, model, manager, folder / "checkpoint.pt", progress, one_shot, files)
    outcome = Outcome(seed, manager.report(dense=dense), reached, task.measure(model), curve)
    if files is not None:
        files.save_outcome(outcome)
    return outcome


def train_dense(task: Task, seed: int, progress: Progress, files: SeedFiles | None = None) -> nn.Module:
    """The task's model, built and trained under a seed, or loaded from the file of an earlier job."""
    _seed(seed)
    dense = task.build_model()
    if files is not None and files.dense.exists():
        if files.load_dense(dense):
            return dense
        _seed(seed)  # the file does not fit, and may have been loaded in part
        dense = task.build_model()
    TrainingLoop(task, dense, task.optimizer(dense), task.dense_epochs, progress, "dense").run()
    if files is not None:
        files.save_dense(dense)
    return dense


def combined(outcomes: Sequence[Outcome], task: Task) -> Report:
    """One report over all seeds: the counts and curves of the first seed, the metrics of all."""
    first = outcomes[0]
    seeds = "one seed" if len(outcomes) == 1 else f"seeds {', '.join(str(one.seed) for one in outcomes)}"
    counts = "; counts, bytes and latency are those of the first" if len(outcomes) > 1 else ""
    count = len(outcomes)
    models = [*(one.dense for one in outcomes), *(one.compressed for one in outcomes), *(one for _, one in first.curve)]
    metrics, models = named(task.known_metrics, models)
    over_time = [(at, one) for (at, _), one in zip(first.curve, models[2 * count :], strict=True)]
    curves = [curve for metric in metrics if (curve := _curve(metric, over_time)).points]
    return dataclasses.replace(
        first.report,
        task=task.name,
        history=(*first.report.history, *curves),
        metrics=metrics,
        dense=dataclasses.replace(first.report.dense, values=_by_metric(models[:count])),
        compressed=dataclasses.replace(first.report.compressed, values=_by_metric(models[count : 2 * count])),
        notes=(
            f"{task.name}; {seeds}{counts}",
            f"the dense model was trained for {task.dense_epochs} epochs, the recipe went on from it",
            *first.report.notes,
        ),
    )


def _curve(metric: Metric, over_time: Sequence[tuple[float, Measured]]) -> Curve:
    points = ((at, metric.scale * one[metric.name]) for at, one in over_time if metric.name in one)
    return Curve(metric.title, tuple(points))


def _by_metric(seeds: Sequence[Measured]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(one[name] for one in seeds if name in one) for one in seeds[:1] for name in one}


def compressed(
    task: Task,
    model: nn.Module,
    manager: ScheduledManager,
    checkpoint: Path,
    progress: Progress,
    one_shot: bool = False,
    files: SeedFiles | None = None,
) -> list[tuple[float, Measured]]:
    """Run a manager's recipe on a model, in place, and save the checkpoint; what was measured after each epoch."""
    if one_shot:
        manager.apply(model, data=task.train_loader, example_inputs=task.example_inputs)
        save(checkpoint, model, [], manager)
        return []
    optimizer = task.optimizer(model)
    length = len(task.train_loader)
    manager.modify(model, optimizer, length, data=task.train_loader, example_inputs=task.example_inputs)
    epochs = manager.recipe.run_epochs or 0
    scheduled = not manager.recipe.claims("schedule of lr")
    loop = TrainingLoop(task, model, optimizer, epochs, progress, "recipe", task.measure, scheduled)
    if files is not None:
        files.restore(loop, manager)
    curve = loop.run(None if files is None else lambda: files.save_half(loop, manager))
    save(checkpoint, model, optimizer, manager)
    manager.finish()
    return curve


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
