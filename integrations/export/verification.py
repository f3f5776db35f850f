"""Checking an exported file: whether its outputs match the model's, and how fast it is."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from paredown.framework.errors import ExportError
from paredown.framework.measure.latency import Latency
from paredown.framework.model.forward import Forward, call
from paredown.framework.model.graph.fusion import tensors_of
from paredown.framework.model.targets import unwrap
from paredown.framework.model.temporary import evaluating

__all__ = [
    "Agreement",
    "Called",
    "Exported",
    "agree",
    "arguments",
    "bytes_at",
    "in_float64",
    "inputs_of",
    "outputs_of",
    "quiet",
    "reason_of",
    "require",
]


@dataclass(frozen=True)
class Agreement:
    """How far an exported model is from the model on the example inputs.

    Attributes:
        difference: the largest absolute difference of an output, of the output where it is most of the step.
        step: of that output: (max - min) / 255, what one step of eight bits would be.
        argmax: the share of rows (along the last dimension) whose largest element is at the same place.
        spread: the root mean square of the differences.
        noise: the same between the model in float32 and in float64, where that was looked at; else 0.
    """

    difference: float
    step: float
    argmax: float
    spread: float = 0.0
    noise: float = 0.0

    def __str__(self) -> str:
        return f"largest difference {self.difference:.3g} (a step of the output is {self.step:.3g})"


@dataclass(frozen=True)
class Exported:
    """What was written, and what was measured on the example inputs.

    Attributes:
        path: the file or folder.
        agreement: of its outputs with the model's.
        bytes, dense_bytes: of it (with its outlying data), and of the same model exported without quantizers.
        latency, dense_latency: of both, measured in turns (`measure_latency`); None where it was not asked for.
    """

    path: Path
    agreement: Agreement
    bytes: int
    dense_bytes: int | None = None
    latency: Latency | None = None
    dense_latency: Latency | None = None

    @property
    def speedup(self) -> float | None:
        """Median latency of the dense model over that of the exported one."""
        if self.latency is None or self.dense_latency is None:
            return None
        return self.dense_latency.median / self.latency.median


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


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Without warnings and log lines of an exporter about its own insides."""
    talker = logging.getLogger(name)
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        talker.setLevel(level)


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


def outputs_of(model: nn.Module, example_inputs: Any, forward: Forward | None) -> tuple[Tensor, ...]:
    """The tensors that an eval forward returns.

    Raises:
        ExportError: there are none.
    """
    with evaluating(model):
        tensors = tensors_of(call(model, example_inputs, forward))
    if not tensors:
        raise ExportError("the model returns no tensor: nothing can be compared")
    return tuple(tensor.detach().clone() for tensor in tensors)


def inputs_of(example_inputs: Any) -> tuple[Tensor, ...]:
    """The tensors in example inputs, in their order."""
    return tuple(leaf for leaf in tree_leaves(example_inputs) if isinstance(leaf, Tensor))


def agree(
    want: Sequence[Tensor],
    got: Sequence[Tensor],
    tolerance: float | None,
    what: str | Path,
    again: Callable[[], Sequence[Tensor] | None] = lambda: None,
) -> Agreement:
    """Compare all floating-point outputs.

    By default one step of each output is accepted, or a root mean square of a quarter step: where a value that lies
    between two codes falls to the other side, because it was summed in another order, single outputs move by more. A
    deep quantized model amplifies that. Where the outputs differ by more, the model is therefore computed in float64
    too, and twice the root mean square of that difference is accepted of the export's.

    Args:
        want, got: of the model and of what was exported.
        tolerance: the largest absolute difference that is accepted; None: as above.
        what: for the message.
        again: gives the model's outputs in float64, or None if it cannot.

    Raises:
        ExportError: they are further apart, or of other numbers and shapes.
    """
    if [tuple(tensor.shape) for tensor in want] != [tuple(tensor.shape) for tensor in got]:
        shapes = ([list(tensor.shape) for tensor in tensors] for tensors in (want, got))
        raise ExportError("{}: the model returns the shapes {}, the exported one {}".format(what, *shapes))
    found = [_agreement(*pair) for pair in zip(want, got, strict=True)]
    far = [each for each in found if not _is_near(each, tolerance)]
    if far and tolerance is None and (other := again()) is not None:
        found = [_with_noise(each, *pair) for each, pair in zip(found, zip(want, other, strict=True), strict=True)]
        far = [each for each in found if not _is_near(each, None) and not each.spread <= 2 * each.noise]
    if far:
        raise ExportError(f"{what}: {far[0]} is more than the tolerance {_allowed(far[0], tolerance)}")
    return max(found, key=lambda each: each.difference / max(each.step, 1e-30))


def _is_near(agreement: Agreement, tolerance: float | None) -> bool:
    if tolerance is not None:
        return agreement.difference <= tolerance
    return agreement.difference <= agreement.step or agreement.spread <= agreement.step / 4


def _allowed(agreement: Agreement, tolerance: float | None) -> str:
    noise = f", and its root mean square {agreement.spread:.3g} more than twice what rounding does to the model, "
    known = f"{noise}{agreement.noise:.3g}" if agreement.noise else ""
    return f"{agreement.step if tolerance is None else tolerance:.3g}{known}"


def in_float64(model: nn.Module, example_inputs: Any, forward: Forward | None) -> tuple[Tensor, ...] | None:
    """The model's outputs in float64; None for a model that cannot be computed so."""
    try:
        wide = copy.deepcopy(unwrap(model)).double()
        inputs = tree_map(_widened, example_inputs)
        return outputs_of(wide, inputs, forward)
    except Exception:  # a model may do anything with a type that its author never tried
        return None


def reason_of(error: BaseException) -> str:
    """Class and first line of the error that was at the bottom of another one."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _widened(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _agreement(want: Tensor, got: Tensor) -> Agreement:
    if not want.is_floating_point() or not want.numel():
        return Agreement(0.0, 0.0, 1.0)
    apart = _apart(want, got)
    want, got = want.detach().double().cpu(), got.detach().double().cpu()
    finite = want[want.isfinite()]
    step = float(finite.max() - finite.min()) / 255 if finite.numel() else 0.0
    least = 1e-5 * float(finite.abs().max()) if finite.numel() else 0.0
    same = 1.0 if want.dim() == 0 else float((want.argmax(-1) == got.argmax(-1)).double().mean())
    return Agreement(float(apart.max()), max(step, least), same, _root_mean_square(apart))


def _with_noise(agreement: Agreement, want: Tensor, other: Tensor) -> Agreement:
    if not want.is_floating_point() or want.shape != other.shape:
        return agreement
    return dataclasses.replace(agreement, noise=_root_mean_square(_apart(want, other)))


def _apart(want: Tensor, got: Tensor) -> Tensor:
    want, got = want.detach().double().cpu(), got.detach().double().cpu()
    return torch.where(want == got, 0.0, (want - got).abs())  # infinities that agree too


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def bytes_at(path: Path) -> int:
    """Bytes of a file with the files of its outlying data (``<name>.data``), or of a folder."""
    if path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return sum(each.stat().st_size for each in (path, path.with_name(f"{path.name}.data")) if each.is_file())
