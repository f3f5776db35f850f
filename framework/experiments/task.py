"""What `paredown run` needs to know of a user's job: model, data, loss, optimizer, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from paredown.framework.errors import ParedownError

__all__ = ["Batches", "Task"]


class Batches(Protocol):
    """Training data: iterated once an epoch, yields (inputs, targets), and knows how many batches there are."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Task:
    """A training job that a recipe can be run on; `paredown run --task module:function` calls the function for one.

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
        seeds: what to repeat the whole run with, for a mean and a spread.
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
        """What ``evaluate`` gives for a model, as a number.

        Raises:
            ParedownError: it gives something else.
        """
        found: Any = self.evaluate(model)
        try:
            return float(found)
        except (TypeError, ValueError):
            raise ParedownError(
                f"{self.name}: evaluate gave {str(found)[:100]!r}; the accuracy is a number, such as correct / total"
            ) from None
