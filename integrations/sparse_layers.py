"""Layers that skip the zeros of their weights, in PyTorch on the CPU (`torch.sparse`, whose products are MKL's)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.model.forward import Forward, call
from paredown.framework.model.fused_layers import (
    attributes_set,
    attributes_without_fast_path,
    restore_fast_path,
    use_slow_path,
)
from paredown.framework.model.kinds import CONVOLUTIONS
from paredown.framework.model.links import Links, base_class
from paredown.framework.model.targets import match, named_modules, unwrap
from paredown.framework.model.temporary import buffers_kept, evaluating
from paredown.integrations.sparse.choosing import Trial, fault, in_turns
from paredown.integrations.sparse.layers import is_sparse, put_dense_, put_sparse_

__all__ = ["Conversion", "LayerForm", "convert", "is_converted", "restore"]

#: the dense layer must take so many times as long
MARGIN = 1.1
KINDS = (nn.Linear, *CONVOLUTIONS)


@dataclass(frozen=True)
class LayerForm:
    """What became of a layer.

    Attributes:
        zeros: the share of its weights that are zero; None: they were not looked at.
        seconds: of its calls in one forward of the example inputs, dense and in CSR; None: they were not measured.
        reason: why it stays dense; None: it is converted.
    """

    name: str
    kind: str
    zeros: float | None = None
    seconds: tuple[float, float] | None = None
    reason: str | None = None

    def _cells(self) -> tuple[str, ...]:
        zeros = "" if self.zeros is None else f"{self.zeros:.1%}"
        dense, sparse = ("", "") if self.seconds is None else (f"{1e3 * each:.3g}" for each in self.seconds)
        return self.name or "(the model)", self.kind, zeros, dense, sparse, self.reason or "converted"


@dataclass(frozen=True)
class Conversion:
    """What `convert` did. As a text it is a table with a line a layer.

    Attributes:
        layers: all linear layers and convolutions that were meant.
        seconds: of one forward of the example inputs before and afterwards; None: nothing is converted, and nothing was
            measured.
        threads: in which torch computed meanwhile. Of one thread the times are CPU time, of several wall-clock time.
    """

    layers: tuple[LayerForm, ...]
    seconds: tuple[float, float] | None = None
    threads: int = 1

    @property
    def converted(self) -> list[str]:
        """The names of the layers that are converted."""
        return [layer.name for layer in self.layers if layer.reason is None]

    def __str__(self) -> str:
        rows = [("layer", "kind", "zeros", "ms dense", "ms in CSR", ""), *(layer._cells() for layer in self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        sides = "<<>>><"
        cells = [
            [f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)] for row in rows
        ]
        return "\n".join([self._sentence(), *("  ".join(row).rstrip() for row in cells)])

    def _sentence(self) -> str:
        told = f"{len(self.converted)} of {len(self.layers)} layers skip their zeros"
        if self.seconds is None:
            return told
        before, after = self.seconds
        clock = "CPU time, one thread" if self.threads == 1 else f"wall-clock time, {self.threads} threads"
        return f"{told}: {1e3 * before:.3g} -> {1e3 * after:.3g} ms a forward ({before / after:.2f}x; {clock})"


def convert(
    model: nn.Module,
    example_inputs: Any,
    *,
    targets: Sequence[str] = (),
    ignore: Sequence[str] = (),
    forward: Forward | None = None,
) -> Conversion:
    """Put weights in CSR into the linear layers and 1x1 convolutions that are faster with them, in place.

    Each layer whose weights are zeros by more than half is measured, dense and in CSR, on what reaches it from the
    example inputs, and the model with all that gain is measured again as a whole: what does not gain 10% stays. So
    give inputs of the batch size that will be used, and set `torch.set_num_threads` as it will be.

    Converted layers are for inference: called in training mode, or with a weight that is to be trained, they raise
    ParedownError. Inputs of other sizes are computed correctly; in autocast, in half precision and on other devices
    the weight is made dense at each call, which is slow. State dicts have the names and the dense weights as before,
    and load as before. Layers can be copied and pickled; ``weight`` is a matrix in CSR.

    Args:
        model: in float32 or float64 on the CPU, after its manager's ``finalize`` or ``apply``.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of named ones.
        targets, ignore: as in a recipe; without targets all linear layers and convolutions are meant.
        forward: called as ``forward(model, example_inputs)`` where the above does not fit.

    Returns:
        the layers that are converted, and for each other the reason why it stays.

    Raises:
        TargetError: a pattern matches nothing, or the model is compiled by TorchScript.
    """
    inner = unwrap(model)
    if isinstance(inner, torch.jit.ScriptModule):
        raise TargetError("the model is compiled by TorchScript: give the nn.Module that it was made from")
    layers: dict[str, Any] = match(inner, targets, ignore, KINDS).modules
    with evaluating(inner), buffers_kept(inner), attributes_set(inner, attributes_without_fast_path(inner, layers)):
        reasons = {name: fault(inner, name, layer) for name, layer in layers.items()}
        trials = {name: Trial.of(layer) for name, layer in layers.items() if reasons[name] is None}
        with Links().during((layers[name], trial) for name, trial in trials.items()):
            if trials:
                call(inner, example_inputs, forward)
    forms = [_form(name, layer, reasons[name], trials.get(name)) for name, layer in layers.items()]
    gaining = {form.name: trials[form.name] for form in forms if form.reason is None}
    if not gaining:
        return Conversion(tuple(forms), None, torch.get_num_threads())
    return _converted(inner, forms, gaining, lambda: call(inner, example_inputs, forward))


def restore(model: nn.Module) -> list[str]:
    """Make the converted layers of a model dense again, in place, so that it can be trained and exported.

    Returns:
        their names.
    """
    inner = unwrap(model)
    found = {name: module for name, module in named_modules(inner).items() if is_sparse(module)}
    for module in found.values():
        put_dense_(module)
    restore_fast_path(inner, found)
    return list(found)


def is_converted(model: nn.Module) -> bool:
    """Whether any layer of a model is converted."""
    return any(is_sparse(module) for module in model.modules())


def _form(name: str, layer: Any, reason: str | None, trial: Trial | None) -> LayerForm:
    """What is known of a layer before the model is measured as a whole."""
    kind, weight = base_class(layer).__name__, layer._parameters.get("weight")
    looked_at = weight is not None and not is_sparse(layer) and weight.device.type != "meta"
    zeros = 1 - int(torch.count_nonzero(weight.detach())) / weight.numel() if looked_at and weight.numel() else None
    if trial is None:
        return LayerForm(name, kind, zeros, None, reason)
    if trial.seconds is None:
        return LayerForm(name, kind, zeros, None, "its forward is not called with these inputs")
    dense, sparse = trial.seconds
    slower = None if dense > MARGIN * sparse else f"not faster: CSR takes {sparse / dense:.2f} times as long"
    return LayerForm(name, kind, zeros, trial.seconds, slower)


def _converted(
    model: nn.Module, forms: Sequence[LayerForm], gaining: Mapping[str, Trial], run: Callable[[], object]
) -> Conversion:
    """Convert the layers that gain, unless the model as a whole does not."""
    modules = named_modules(model)
    layers = {name: modules[name] for name in gaining}
    weights = {name: layer._parameters["weight"] for name, layer in layers.items()}

    def sparse() -> None:
        use_slow_path(model, gaining)
        for name, layer in layers.items():
            if not is_sparse(layer):
                put_sparse_(layer, gaining[name].weight)

    def dense() -> None:
        for name, layer in layers.items():
            if is_sparse(layer):
                put_dense_(layer, weights[name])
        restore_fast_path(model, gaining)

    try:
        with evaluating(model), buffers_kept(model):
            before, after = in_turns([run, run], prepare=[dense, sparse])
    finally:
        dense()
    if after < before:
        sparse()
        return Conversion(tuple(forms), (before, after), torch.get_num_threads())
    reason = f"the model as a whole is not faster: {1e3 * after:.3g} instead of {1e3 * before:.3g} ms"
    stay = tuple(replace(form, reason=form.reason or reason) for form in forms)
    return Conversion(stay, None, torch.get_num_threads())
