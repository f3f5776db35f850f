"""What exporters need around a model: optional packages, quiet, and how the model is called."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from paredown.framework.errors import ExportError
from paredown.framework.model.forward import Forward, call

__all__ = ["Called", "arguments", "arrays_by_name", "inputs_of", "quiet", "reason_of", "require", "silent", "widened"]


class Called(nn.Module):
    """A model that is called through a callable, for exporters that want a module."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self._call = forward

    def forward(self, inputs: Any) -> Any:
        return call(self.model, inputs, self._call)


def arguments(example_inputs: Any, forward: Forward | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of the module that is exported: the model, or `Called`."""
    if forward is not None:
        return (), {"inputs": example_inputs}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)), {}


def inputs_of(example_inputs: Any) -> tuple[Tensor, ...]:
    """The tensors in example inputs, in their order."""
    return tuple(leaf for leaf in tree_leaves(example_inputs) if isinstance(leaf, Tensor))


def arrays_by_name(example_inputs: Any, names: Sequence[str]) -> dict[str, Any]:
    """Example inputs as the arrays of NumPy that a file takes, in the order of its names.

    Raises:
        ExportError: it takes another number of them.
    """
    given = widened(example_inputs)
    if isinstance(given, Mapping) and set(names) <= set(given):
        tensors = tuple(given[name] for name in names)
    else:
        tensors = inputs_of(given)
    if len(tensors) != len(names):
        raise ExportError(f"the exported model wants the inputs {list(names)}, and {len(tensors)} tensors are given")
    return {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}


def widened(example_inputs: Any) -> Any:
    """Example inputs with float32 in the place of half precision: what a written copy takes."""
    return tree_map(_widened, example_inputs)


def _widened(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Without gradients, and without warnings and log lines of an exporter about its own insides."""
    talker = logging.getLogger(name)
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        talker.setLevel(level)


@contextmanager
def silent(name: str) -> Iterator[None]:
    """`quiet`, and without progress bars."""
    with quiet(name), contextlib.redirect_stderr(io.StringIO()):
        yield


def require(package: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        ExportError: it is not installed; the message is the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise ExportError(f"this export needs the package {name}: pip install 'paredown[{extra}]'") from error


def reason_of(error: BaseException) -> str:
    """Class and first line of the error that was at the bottom of another one."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
