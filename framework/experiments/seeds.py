"""Training a dense model, running the recipe on it, and comparing: the work of `paredown run`."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from paredown.framework.experiments.resuming import Keeping
from paredown.framework.experiments.task import Task
from paredown.framework.experiments.training_loop import Progress, TrainingLoop
from paredown.framework.recipe import Recipe
from paredown.framework.report import Curve, Report
from paredown.framework.run.checkpoint import save
from paredown.framework.run.manager import ScheduledManager

__all__ = ["Outcome", "run_seed", "run_seeds", "together", "train_dense"]


@dataclass(frozen=True)
class Outcome:
    """What one seed gave."""

    seed: int
    report: Report
    dense_accuracy: float
    accuracy: float
    accuracies: Sequence[tuple[float, float]]


def run_seeds(
    task: Task,
    recipe: Recipe,
    seeds: Iterable[int],
    folder: Path,
    progress: Callable[[int], Progress],
    show: Callable[[str], None],
    one_shot: bool,
    dense: Path | None = None,
) -> Report:
    """Run every seed and report on all together; the first seed's checkpoint lies in ``folder`` itself.

    Args:
        progress: gives what is told of a seed's training.
        show: is shown the plan, once.
        one_shot: apply the recipe without training.
        dense: a folder where dense models are kept for other jobs; given, the run can be killed and called again.
    """
    outcomes: list[Outcome] = []
    kept: list[Keeping] = []
    for seed in seeds:
        place = folder / f"seed-{seed}" if outcomes else folder
        keeping = (
            None if dense is None else Keeping(dense / f"seed-{seed}.pt", place / "half.pt", place / "outcome.json")
        )
        kept += [] if keeping is None else [keeping]
        earlier = None if keeping is None else keeping.load_outcome()
        outcomes.append(
            earlier
            or run_seed(task, recipe, seed, place, progress(seed), _nothing if outcomes else show, one_shot, keeping)
        )
    report = together(outcomes, task)
    for keeping in kept:
        keeping.clear()
    return report


def run_seed(
    task: Task,
    recipe: Recipe,
    seed: int,
    folder: Path,
    progress: Progress,
    show: Callable[[str], None],
    one_shot: bool,
    keeping: Keeping | None = None,
) -> Outcome:
    """Train the dense model, show the plan, run the recipe, and save the checkpoint."""
    dense = train_dense(task, seed, progress, keeping)
    dense_accuracy = task.accuracy(dense)
    model = copy.deepcopy(dense)
    manager = ScheduledManager(recipe)
    length = len(task.train_loader)
    show(str(manager.plan(model, steps_per_epoch=length, example_inputs=task.example_inputs)))
    if one_shot:
        manager.apply(model, data=task.train_loader, example_inputs=task.example_inputs)
        save(folder / "checkpoint.pt", model, [], manager)
        curve: list[tuple[float, float]] = []
    else:
        curve = _with_recipe(task, model, manager, folder / "checkpoint.pt", progress, keeping)
    outcome = Outcome(seed, manager.report(dense=dense), dense_accuracy, task.accuracy(model), curve)
    if keeping is not None:
        keeping.save_outcome(outcome)
    return outcome


def train_dense(task: Task, seed: int, progress: Progress, keeping: Keeping | None = None) -> nn.Module:
    """The task's model, built and trained under a seed, or taken from where it was kept."""
    _seed(seed)
    dense = task.build_model()
    if keeping is not None and keeping.dense.exists():
        if keeping.load_dense(dense):
            return dense
        _seed(seed)  # what is kept does not fit, and may have been put in by half
        dense = task.build_model()
    TrainingLoop(task, dense, task.optimizer(dense), task.dense_epochs, progress, "dense").run()
    if keeping is not None:
        keeping.save_dense(dense)
    return dense


def together(outcomes: Sequence[Outcome], task: Task) -> Report:
    """One report over all seeds: the counts and curves are the first seed's, the accuracies everybody's."""
    first = outcomes[0]
    seeds = "one seed" if len(outcomes) == 1 else f"seeds {', '.join(str(one.seed) for one in outcomes)}"
    counts = "; counts, bytes and latency are those of the first" if len(outcomes) > 1 else ""
    curves = (Curve("accuracy", tuple(first.accuracies)),) if first.accuracies else ()
    return dataclasses.replace(
        first.report,
        task=task.name,
        history=(*first.report.history, *curves),
        dense=dataclasses.replace(first.report.dense, accuracies=tuple(one.dense_accuracy for one in outcomes)),
        compressed=dataclasses.replace(first.report.compressed, accuracies=tuple(one.accuracy for one in outcomes)),
        notes=(
            f"{task.name}; {seeds}{counts}",
            f"the dense model was trained for {task.dense_epochs} epochs, the recipe went on from it",
            *first.report.notes,
        ),
    )


def _with_recipe(
    task: Task,
    model: nn.Module,
    manager: ScheduledManager,
    checkpoint: Path,
    progress: Progress,
    keeping: Keeping | None,
) -> list[tuple[float, float]]:
    optimizer = task.optimizer(model)
    length = len(task.train_loader)
    manager.modify(model, optimizer, length, data=task.train_loader, example_inputs=task.example_inputs)
    epochs = manager.recipe.run_epochs or 0
    scheduled = not manager.recipe.claims("schedule of lr")
    loop = TrainingLoop(task, model, optimizer, epochs, progress, "recipe", task.accuracy, scheduled)
    if keeping is not None:
        keeping.go_on(loop, manager)
    curve = loop.run(None if keeping is None else lambda: keeping.save_half(loop, manager))
    save(checkpoint, model, optimizer, manager)
    manager.finalize()
    return curve


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _nothing(text: str) -> None:
    """Shows nothing."""
