"""A user's training job: model, data, loss, optimizer, evaluation; and how it is found by its name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from paredown.framework.errors import ArgumentError, ParedownError

__all__ = ["Batches", "Task", "load_task"]


class Batches(Protocol):
    """Training data: an iterable of (inputs, targets), iterated once an epoch; its length is the number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Task:
    """A training job that a recipe is run on; `paredown run --task module:function` calls a function that returns one.

    Attributes:
        name: a few words for tables.
        build_model: a fresh, untrained model. It is called after torch, numpy and Python's random were seeded.
        train_loader: the batches of one epoch; the order and augmentation may draw from torch's default generator.
        evaluate: the accuracy, 0 to 1, of a model on data that it was not trained on; must not change the model.
        loss: of outputs and targets, 0-d.
        optimizer: a new optimizer for a model.
        example_inputs: the model's positional arguments, for counts and latency.
        dense_epochs: how long the dense model is trained before the recipe starts.
        scheduler: of an optimizer and the number of all steps, stepped after each step; None for no scheduler.
            It is used for the dense training, and for the recipe's where that has no ``learning_rate`` modifier.
        seeds: the whole run is repeated with each, for a mean and a spread.
    """

    name: str
    build_model: Callable[[], nn.Module]
    train_loader: Batches
    evaluate: Callable[[nn.Module], float]
    loss: Callable[[Any, Tensor], Tensor]
    optimizer: Callable[[nn.Module], Optimizer]
    example_inputs: tuple[Any, ...]
    dense_epochs: int
    scheduler: Callable[[Optimizer, int], LRScheduler] | None = None
    seeds: tuple[int, ...] = (0,)

    def accuracy(self, model: nn.Module) -> float:
        """The accuracy of a model: the value of ``evaluate``, as a number.

        Raises:
            ParedownError: ``evaluate`` returned something else.
        """
        found: Any = self.evaluate(model)
        try:
            return float(found)
        except (TypeError, ValueError):
            raise ParedownError(
                f"{self.name}: evaluate returned {str(found)[:99]!r}; the accuracy is a number, such as correct / total"
            ) from None


def load_task(source: str) -> Task:
    """Import ``module:function``, where the current folder is searched too, and call the function for its task.

    Raises:
        ArgumentError: there is no such module or function, or it returns something else.
    """
    module_name, _, function_name = source.partition(":")
    if not module_name or not function_name:
        raise ArgumentError(f"{source!r}: write module:function", "task")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"{source!r} cannot be imported: {error}", "task") from error
    task = function()
    if not isinstance(task, Task):
        raise ArgumentError(f"{source!r} returned a {type(task).__name__}; a paredown.Task is wanted", "task")
    return task
