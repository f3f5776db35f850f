"""Whether a file computes what was promised: its outputs, those of the simulation, and those of the unquantized model.

A file is right if it is no further from the unquantized model than the simulation is. Single values may differ by a
step of their grid: where a value lies between two codes it falls to one side or to the other, as sums are made in
another order, and a deep network amplifies that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import ExportError
from paredown.framework.model.graph.trace import tensors_of
from paredown.framework.model.links import Link, add_link, remove_links

__all__ = [
    "Agreement",
    "Agreements",
    "LayerComparison",
    "LayerErrors",
    "Results",
    "layer_results",
    "parting",
    "table",
]

#: how much larger the root mean square of the file's error may be than the simulation's, beyond chance
SLACK = 1.1
#: how much larger it may be in any case
LARGEST = math.sqrt(2.0)
#: the same of a file that was mended, whose scales are up to twice those that were simulated
MENDED = 2.0
#: standard errors that are put down to chance
CHANCE = 3.0
#: of the outputs' root mean square: floating-point engines differ by that
FLOOR = 1e-3
#: of the decisions that are clear, how many must agree
SAME = 0.99
#: a decision is clear where the largest is ahead by so many times the simulation's error
CLEAR = 4.0

Results = Mapping[str, Tensor]


@dataclass(frozen=True)
class Agreement:
    """How far one output of a file is from the model's, over all samples.

    Attributes:
        difference: the largest absolute difference from the simulation.
        step: (max - min) / 255 of the simulation's output: what one step of eight bits would be.
        simulated, engine: the root mean squares of the simulation's and of the file's difference from the unquantized
            model.
        spread: that of the file's difference from the simulation.
        magnitude: that of the unquantized model's output.
        argmax: of the rows whose largest element is clear in the unquantized model, the share with the same one in the
            file; 1 without such.
        simulated_argmax: the same of the simulation.
        argmax_error: the standard error of the latter.
        samples: how many it was looked at.
        excess: by how many standard errors the file's squared error lies above the allowed one.
    """

    difference: float
    step: float
    simulated: float
    engine: float
    spread: float
    magnitude: float
    argmax: float = 1.0
    simulated_argmax: float = 1.0
    argmax_error: float = 0.0
    samples: int = 0
    excess: float = 0.0

    @property
    def simulated_decibels(self) -> float:
        """Signal to quantization noise of the simulation, in dB."""
        return decibels(self.magnitude, self.simulated)

    @property
    def engine_decibels(self) -> float:
        """Signal to quantization noise of the file, in dB."""
        return decibels(self.magnitude, self.engine)

    def fault(self, tolerance: float | None = None, mended: bool = False) -> str | None:
        """What is wrong with the file, or None.

        Args:
            tolerance: the largest difference from the simulation that is accepted, in place of the rest.
            mended: the file was written otherwise than it was simulated: it may be further off.
        """
        if not math.isfinite(self.engine):
            return "the file's outputs differ: they are not finite"
        if tolerance is not None:
            wrong = self.difference > tolerance
            return (
                f"the outputs differ by {self.difference:.3g}, more than the tolerance {tolerance:g}" if wrong else None
            )
        beyond = self.engine - FLOOR * self.magnitude
        beyond_chance = self.excess > CHANCE and not mended
        most = MENDED if mended else LARGEST
        too_far = beyond > most * self.simulated or (beyond > SLACK * self.simulated and beyond_chance)
        if too_far:
            return (
                f"the file's outputs differ from the unquantized model's by {self.engine:.3g} (root mean square, "
                f"{self.engine_decibels:.1f} dB), the simulation's by {self.simulated:.3g} "
                f"({self.simulated_decibels:.1f} dB)"
            )
        if self.argmax < SAME * self.simulated_argmax - CHANCE * self.argmax_error:
            return (
                f"the decisions differ: only {self.argmax:.1%} of the clear ones agree with the unquantized model's, "
                f"of the simulation's {self.simulated_argmax:.1%}"
            )
        return None

    def __str__(self) -> str:
        return f"{self.engine_decibels:.1f} dB to the unquantized model (simulated {self.simulated_decibels:.1f} dB)"


@dataclass(frozen=True)
class LayerComparison:
    """One layer in the file: how it is computed, and its result's signal to noise ratio to the unquantized model.

    ``computed`` is "integer", "float", or "" where the engine does not say; decibels are None where unknown.
    """

    name: str
    kind: str
    computed: str
    simulated: float | None
    engine: float | None

    def __str__(self) -> str:
        return (
            f"{self.name or '(model)':<32} {self.kind:<20} {self.computed:<8} {_db(self.simulated)} {_db(self.engine)}"
        )


class Agreements:
    """Takes in outputs, batch after batch, and sums up.

    Args:
        mended: the file was written otherwise than it was simulated: fewer decisions are clear.
    """

    def __init__(self, mended: bool = False) -> None:
        self._clear = CLEAR * (MENDED if mended else 1.0)
        self._outputs: list[_Output] = []

    def add(self, dense: Sequence[Tensor], simulated: Sequence[Tensor], engine: Sequence[Tensor], what: str) -> None:
        """Take in the outputs for one batch.

        Raises:
            ExportError: the file gives others, in number or shape.
        """
        shapes = [[list(tensor.shape) for tensor in tensors] for tensors in (simulated, engine)]
        if shapes[0] != shapes[1]:
            raise ExportError(f"{what}: the outputs differ: the model's have the shapes {shapes[0]}, these {shapes[1]}")
        self._outputs = self._outputs or [_Output() for _ in simulated]
        for output, *each in zip(self._outputs, dense, simulated, engine, strict=True):
            output.add(*each)

    def found(self) -> list[Agreement]:
        """One for each output."""
        return [output.agreement(self._clear) for output in self._outputs]


class _Output:
    """The values of one output over all batches: (samples, values)."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, *tensors: Tensor) -> None:
        wide = [_rows(tensor.detach().cpu()) for tensor in tensors]
        self.parts.append((wide[0], wide[1], wide[2]))

    def agreement(self, clear: float) -> Agreement:
        """What was found.

        Args:
            clear: how many times the simulation's error the largest is ahead where a decision is clear.
        """
        dense, simulated, engine = (torch.cat([part[each].flatten() for part in self.parts]) for each in range(3))
        near, far = (self._squared_errors(each) for each in (1, 2))
        noise = float(near.mean().sqrt())
        (kept, count), (simulated_kept, _) = (self._same_decisions(each, clear * noise) for each in (2, 1))
        apart, finite = _apart(engine, simulated), simulated[simulated.isfinite()]
        return Agreement(
            difference=float(apart.max()) if apart.numel() else 0.0,
            step=float(finite.max() - finite.min()) / 255 if finite.numel() else 0.0,
            simulated=noise,
            engine=float(far.mean().sqrt()),
            spread=float(apart.square().mean().sqrt()),
            magnitude=float(dense[dense.isfinite()].square().mean().sqrt()) if finite.numel() else 0.0,
            argmax=kept,
            simulated_argmax=simulated_kept,
            argmax_error=math.sqrt(simulated_kept * (1 - simulated_kept) / max(count, 1)),
            samples=len(near),
            excess=_standard_errors(far - SLACK**2 * near),
        )

    def _squared_errors(self, which: int) -> Tensor:
        """For each sample the mean square of the difference from the unquantized model."""
        return torch.cat([_apart(part[which], part[0]).square().flatten(1).mean(1) for part in self.parts])

    def _same_decisions(self, which: int, margin: float) -> tuple[float, int]:
        """Of the decisions by more than a margin the share that is the same, and how many there are."""
        same = clear = 0
        for part in self.parts:
            dense, other = part[0], part[which]
            if dense.dim() < 2 or dense.shape[-1] < 2:
                break
            first, second = dense.topk(2, -1).values.unbind(-1)
            known = first - second > margin + 1e-6 * first.abs()
            clear += int(known.sum())
            same += int((dense.argmax(-1) == other.argmax(-1))[known].sum())
        return (same / clear if clear else 1.0), clear


class LayerErrors:
    """Takes in the results of layers, batch after batch, and sums up how far they are from the unquantized model's."""

    def __init__(self) -> None:
        #: by layer the squares of the unquantized results, and of both differences from them
        self._sums: dict[str, list[float]] = {}

    def add(self, dense: Results, simulated: Results, engine: Results) -> None:
        """Take in the results for one batch, by layer."""
        for name, want in dense.items():
            sums = self._sums.setdefault(name, [0.0, 0.0, 0.0])
            sums[0] += float(want.double().square().sum())
            for place, got in ((1, simulated.get(name)), (2, engine.get(name))):
                sums[place] += _squares_apart(got, want)

    def rows(self, kinds: Mapping[str, str], computed: Mapping[str, str]) -> list[LayerComparison]:
        """A row a layer.

        Args:
            kinds: by layer its class.
            computed: by layer "integer" or "float", where that is known.
        """
        return [
            LayerComparison(
                name, kind, computed.get(name, ""), *(_ratio(self._sums.get(name), place) for place in (1, 2))
            )
            for name, kind in kinds.items()
        ]


def table(layers: Sequence[LayerComparison]) -> str:
    """The rows as text, and the first layer that parts."""
    head = f"{'layer':<32} {'kind':<20} {'computed':<8} {'simulated':>9} {'engine':>9}"
    first = next(iter(parting(layers)), None)
    end = [] if first is None else [f"the first layer that parts is {first or 'the model'}"]
    return "\n".join([head, *map(str, layers), *end])


def parting(layers: Sequence[LayerComparison]) -> list[str]:
    """The layers whose results in the file are much further from the unquantized model's than the simulation's, in
    their order."""
    return [row.name for row in layers if _parts(row)]


def decibels(signal: float, noise: float) -> float:
    """20 log10(signal / noise); infinite without noise."""
    return math.inf if noise <= 0 else 20 * math.log10(max(signal, 1e-300) / noise)


@contextmanager
def layer_results(model: nn.Module, names: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """The results of modules in the forwards inside of the block, the newest ones.

    Args:
        names: by the name that a result is to have the module's.
    """
    seen: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    links = [(modules[module], _Seen(seen, name)) for name, module in names.items() if module in modules]
    try:
        for module, link in links:
            add_link(module, link)
        yield seen
    finally:
        for module, link in links:
            remove_links(module, [link])


class _Seen(Link):
    def __init__(self, seen: dict[str, Tensor], name: str) -> None:
        self.seen, self.name = seen, name

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        output = call(module, *args, **kwargs)
        tensors = tensors_of(output)
        if tensors:
            self.seen[self.name] = tensors[0].detach().cpu()
        return output


def _standard_errors(values: Tensor) -> float:
    """By how many standard errors the mean of some values lies above zero."""
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean / error if error > 0 else math.copysign(math.inf, mean)


def _rows(tensor: Tensor) -> Tensor:
    """In float64, with at least two dimensions."""
    wide = tensor.double()
    return wide.reshape(1, -1) if wide.dim() < 2 else wide


def _apart(one: Tensor, other: Tensor) -> Tensor:
    return torch.where(one == other, 0.0, (one - other).abs())  # infinities that agree too


def _squares_apart(got: Tensor | None, want: Tensor) -> float:
    """The sum of the squared differences; NaN where there is nothing of that shape to compare."""
    if got is None or got.shape != want.shape:
        return math.nan
    return float(_apart(got.double(), want.double()).square().sum())


def _ratio(sums: list[float] | None, place: int) -> float | None:
    if sums is None or math.isnan(sums[place]):
        return None
    return decibels(math.sqrt(sums[0]), math.sqrt(sums[place]))


def _parts(row: LayerComparison) -> bool:
    known = row.simulated is not None and row.engine is not None
    return known and row.engine < min(row.simulated, 60.0) - 3  # type: ignore[operator, type-var]


def _db(value: float | None) -> str:
    return f"{'':>9}" if value is None else f"{min(value, 999.0):6.1f} dB"
