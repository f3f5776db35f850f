"""A user's training job: model, data, loss, optimizer, evaluation; and how it is found by its name."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from paredown.framework.errors import ArgumentError, ParedownError, first_line

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
