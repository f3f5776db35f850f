"""A user's training job: model, data, loss, optimizer, evaluation; and how it is found by its name."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from paredown.framework.errors import ArgumentError, ParedownError, first_line
from paredown.framework.report.metrics import Measured, Metric, declared, measure, named

__all__ = ["Batches", "Task", "load_task"]


class Batches(Protocol):
    """Training data, iterated once an epoch; its length is the number of batches.

    A batch is (inputs, targets), or a mapping of the model's named arguments, as Hugging Face's loaders give it.
    """

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Task:
    """A training job that a recipe is run on; `paredown run --task module:function` calls a function that returns one.

    Attributes:
        name: a few words for tables.
        build_model: a fresh, untrained model. It is called after torch, numpy and Python's random were seeded.
        train_loader: the batches of one epoch; the order and augmentation may draw from torch's default generator.
        evaluate: what a model reaches on data that it was not trained on: a number, or a mapping from ``metrics`` to
            numbers; must not change the model. It is called once before anything is trained.
        optimizer: a new optimizer for a model.
        example_inputs: the model's arguments, a tuple of positional ones or a mapping of named ones, for counts and
            latency.
        dense_epochs: how long the dense model is trained before the recipe starts.
        loss: 0-d, of the model's output and the targets, ``batch[1]`` (of a batch that is a mapping: the whole batch).
            None: the output has it, as ``output.loss`` or ``output["loss"]``.
        metrics: what ``evaluate`` gives, by name, and which is better: ``{"accuracy": "max", "perplexity": "min"}``, or
            ``{goal, unit, scale}`` for a name. The first one decides. None: one number; a share is the accuracy.
        scheduler: of an optimizer and the number of all steps, stepped after each step; None for no scheduler.
            It is used for the dense training, and for the recipe's where that has no ``learning_rate`` modifier.
        seeds: the whole run is repeated with each, for a mean and a spread.
    """

    name: str
    build_model: Callable[[], nn.Module]
    train_loader: Batches
    evaluate: Callable[[nn.Module], float | Mapping[str, float]]
    optimizer: Callable[[nn.Module], Optimizer]
    example_inputs: tuple[Any, ...] | Mapping[str, Any]
    dense_epochs: int
    loss: Callable[[Any, Any], Tensor] | None = None
    metrics: Mapping[str, str | Mapping[str, Any]] | None = None
    scheduler: Callable[[Optimizer, int], LRScheduler] | None = None
    seeds: tuple[int, ...] = (0,)

    @property
    def known_metrics(self) -> tuple[Metric, ...]:
        """The metrics that are declared, the one that decides first.

        Raises:
            ParedownError: ``metrics`` is no such mapping.
        """
        return () if self.metrics is None else declared(self.metrics)

    def measure(self, model: nn.Module) -> Measured:
        """What ``evaluate`` gives for a model, by name.

        Raises:
            ParedownError: it is neither a number nor a mapping of numbers, or a metric that is declared is missing.
        """
        known = self.known_metrics
        try:
            measured: Measured = measure(self.evaluate, model)
        except ParedownError as error:
            raise ParedownError(f"{self.name}: {error}") from None
        if known:
            _, (measured,) = named(known, [measured])
        if missing := [metric.name for metric in known if metric.name not in measured]:
            raise ParedownError(
                f"{self.name}: evaluate returned {', '.join(measured)}, and metrics declares {missing[0]!r}: return a "
                f"mapping with it, or declare what is returned"
            )
        return measured

    def loss_of(self, output: Any, batch: Any) -> Tensor:
        """The loss of a model's output for a batch.

        Raises:
            ParedownError: there is none.
        """
        if self.loss is not None:
            found: Any = self.loss(output, batch if isinstance(batch, Mapping) else batch[1])
        elif isinstance(output, Mapping):
            found = output.get("loss")
        else:
            found = getattr(output, "loss", None)
        if not isinstance(found, Tensor):
            raise ParedownError(
                f"{self.name}: the loss is a {type(found).__name__}; give Task(loss=...), a function of the output and "
                "the targets that returns a tensor, or batches with the labels from which the model computes its own"
            )
        return found


def load_task(source: str, folder: Path | None = None) -> Task:
    """Import ``module:function`` or ``path/to/file.py:function``, and call the function for its task.

    Args:
        source: a module on the path of imports or in ``folder``, or a file, alone or in a package.
        folder: where it is looked for; by default the current folder.

    Raises:
        ArgumentError: there is no such module or function, it fails, or it returns something else.
    """
    module, _, function = source.rpartition(":")
    if not module or not function:
        raise ArgumentError(f"{source!r}: write module:function, or file.py:function", "task")
    folder = Path.cwd() if folder is None else folder
    place, name = _of_file(folder / module) if module.endswith(".py") else (folder, module)
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
    try:
        task = getattr(importlib.import_module(name), function)()
    except ParedownError:
        raise
    except Exception as error:  # a task is somebody's code
        raise ArgumentError(f"{source!r} {_reason(error)}", "task") from error
    if not isinstance(task, Task):
        raise ArgumentError(f"{source!r} returned a {type(task).__name__}; a paredown.Task is wanted", "task")
    return task


def _of_file(path: Path) -> tuple[Path, str]:
    """The folder that a file is imported from, and the name of its module; a package's folder lies above it.

    Raises:
        ArgumentError: there is no such file, or a module of its name is imported from elsewhere.
    """
    path = path.resolve()
    if not path.is_file():
        raise ArgumentError(f"{path}: no such file; write module:function, or file.py:function", "task")
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").exists():
        folder, parts = folder.parent, [folder.name, *parts]
    name = ".".join(parts)
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if not name.replace(".", "").isidentifier() or (loaded is not None and Path(loaded).resolve() != path):
        raise ArgumentError(f"{path} cannot be imported as the module {name!r}; rename the file", "task")
    return folder, name


def _reason(error: Exception) -> str:
    """What failed in somebody's code, and in which line of it."""
    if isinstance(error, (ImportError, AttributeError, SyntaxError, TypeError)):
        what = f"cannot be imported: {first_line(error)}"
    else:
        what = f"failed: {type(error).__name__}: {first_line(error)}"
    frames = [one for one in traceback.extract_tb(error.__traceback__)[1:] if not one.filename.startswith("<")]
    own = [one for one in frames if "importlib" not in Path(one.filename).parts]
    return f"{what} ({own[-1].filename}, line {own[-1].lineno})" if own else what
