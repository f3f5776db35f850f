"""Training a dense model, running the recipe on it, and comparing: the work of `paredown run`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paredown.framework.checkpoint import save
from paredown.framework.cli.task import Task
from paredown.framework.manager import ScheduledManager
from paredown.framework.recipe import Recipe
from paredown.framework.report import Report

__all__ = ["Outcome", "run_seed", "together", "train_dense"]

#: told after every optimizer step: (what is trained, step, steps in all, last accuracy or None)
Progress = Callable[[str, int, int, float | None], None]


@dataclass(frozen=True)
class Outcome:
    """What one seed gave."""

    seed: int
    report: Report
    dense_accuracy: float
    accuracy: float
    accuracies: Sequence[tuple[float, float]]


def run_seed(
    task: Task, recipe: Recipe, seed: int, folder: Path, progress: Progress, show: Callable[[str], None], one_shot: bool
) -> Outcome:
    """Train the dense model, show the plan, run the recipe, and save the checkpoint."""
    dense = train_dense(task, seed, progress)
    dense_accuracy = task.evaluate(dense)
    model = copy.deepcopy(dense)
    manager = ScheduledManager(recipe)
    length = len(task.train_loader)
    show(str(manager.plan(model, steps_per_epoch=length, example_inputs=task.example_inputs)))
    if one_shot:
        manager.apply(model, data=task.train_loader, example_inputs=task.example_inputs)
        save(folder / "checkpoint.pt", model, [], manager)
        curve: list[tuple[float, float]] = []
    else:
        curve = _with_recipe(task, model, manager, length, folder / "checkpoint.pt", progress)
    report = manager.report(dense=dense)
    return Outcome(seed, report, dense_accuracy, task.evaluate(model), curve)


def train_dense(task: Task, seed: int, progress: Progress) -> nn.Module:
    """The task's model, built and trained under a seed."""
    torch.manual_seed(seed)
    dense = task.build_model()
    _train(task, dense, task.optimizer(dense), task.dense_epochs, progress, "dense")
    return dense


def together(outcomes: Sequence[Outcome], task: Task) -> Report:
    """One report over all seeds: the counts and curves are the first seed's, the accuracies everybody's."""
    first = outcomes[0]
    seeds = "one seed" if len(outcomes) == 1 else f"seeds {', '.join(str(one.seed) for one in outcomes)}"
    counts = "; counts, bytes and latency are those of the first" if len(outcomes) > 1 else ""
    report = dataclasses.replace(
        first.report,
        dense=dataclasses.replace(first.report.dense, accuracies=tuple(one.dense_accuracy for one in outcomes)),
        compressed=dataclasses.replace(first.report.compressed, accuracies=tuple(one.accuracy for one in outcomes)),
        notes=(
            f"{task.name}; {seeds}{counts}",
            f"the dense model was trained for {task.dense_epochs} epochs, the recipe went on from it",
            *first.report.notes,
        ),
    )
    if first.accuracies:
        report.history["accuracy"] = list(first.accuracies)
    return report


def _with_recipe(
    task: Task, model: nn.Module, manager: ScheduledManager, length: int, checkpoint: Path, progress: Progress
) -> list[tuple[float, float]]:
    optimizer = task.optimizer(model)
    manager.modify(model, optimizer, length, data=task.train_loader, example_inputs=task.example_inputs)
    epochs = manager.recipe.run_epochs or 0
    scheduled = not any("schedule of lr" in modifier.claims for modifier in manager.recipe.modifiers.values())
    curve = _train(task, model, optimizer, epochs, progress, "recipe", task.evaluate, scheduled)
    save(checkpoint, model, optimizer, manager)
    manager.finalize()
    return curve


def _train(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: float,
    progress: Progress,
    what: str,
    evaluate: Callable[[nn.Module], float] | None = None,
    scheduled: bool = True,
) -> list[tuple[float, float]]:
    length = len(task.train_loader)
    total = round(epochs * length)
    scheduler = task.scheduler(optimizer, total) if task.scheduler is not None and total and scheduled else None
    curve: list[tuple[float, float]] = []
    step = 0
    while step < total:
        model.train()
        for batch in task.train_loader:
            if step == total:
                break
            _step(task, model, optimizer, scheduler, batch)
            step += 1
            progress(what, step, total, curve[-1][1] if curve else None)
        if evaluate is not None:
            curve.append((step / length, evaluate(model)))
    return curve


def _step(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, batch: Any) -> None:
    x, y = batch
    optimizer.zero_grad()
    loss: Any = task.loss(model(x), y)
    loss.backward()
    optimizer.step()
    if scheduler is not None:
        scheduler.step()
