"""`export`: a model as the file of an engine, compared with the unquantized model, and measured."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paredown.framework.engine.comparison import (
    Agreement,
    Agreements,
    LayerComparison,
    LayerErrors,
    Results,
    layer_results,
    parting,
    table,
)
from paredown.framework.engine.contract import Engine, Written
from paredown.framework.engine.packing import PackedFile, pack, require_packing
from paredown.framework.engine.plain import eval_copy, layers_in, outputs_of, plain_copy
from paredown.framework.engine.registry import DEFAULT, engine_called
from paredown.framework.engine.samples import samples_of
from paredown.framework.engine.timing import latencies
from paredown.framework.errors import ExportError
from paredown.framework.measure.latency import Latency
from paredown.framework.model.forward import Forward
from paredown.framework.model.links import base_class

__all__ = ["Exported", "export"]

#: a file that takes less than this in floating point is not refused for being slower: calls cost more than sums there
MILLISECONDS = 1.0
SLOWER = 1.05


@dataclass(frozen=True)
class Exported:
    """What was written, and what was measured.

    Attributes:
        path: the file or folder.
        agreement: of the output that is furthest from the unquantized model's.
        bytes: of the file, with the files beside it.
        engine: the engine's name, and its ``version``.
        float_bytes, float_latency: the same model without quantizers, in the same engine.
        reference_bytes, reference_latency: the original model there, if it was given; else as ``float_``.
        latency: CPU time of one run of the example inputs in one thread, in turns with the others; None: not measured.
        layers: a row a layer: how it is computed, and how far its result is from the unquantized model's.
        operators: how often each operator is in the graph that the engine made of the file.
        remarks: what else there is to know.
        mended: whether the file had to be written otherwise for this machine.
        packed: what packing it came to, where that was asked.
    """

    path: Path
    agreement: Agreement
    bytes: int
    engine: str = ""
    version: str = ""
    float_bytes: int | None = None
    reference_bytes: int | None = None
    latency: Latency | None = None
    float_latency: Latency | None = None
    reference_latency: Latency | None = None
    layers: tuple[LayerComparison, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    mended: bool = False
    packed: PackedFile | None = None

    @property
    def speedup(self) -> float | None:
        """Median latency of the reference over that of the file."""
        if self.latency is None or self.reference_latency is None:
            return None
        return self.reference_latency.median / self.latency.median

    @property
    def integer_share(self) -> float | None:
        """Of the layers of which the engine says how it computes them, the share in integers; None: it says nothing."""
        known = [row for row in self.layers if row.computed]
        return sum(row.computed == "integer" for row in known) / len(known) if known else None

    def __str__(self) -> str:
        rows = [("", "reference", "float", "file"), *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
        packed = [] if self.packed is None else [str(self.packed)]
        notes = [f"note: {each}" for each in self.remarks]
        return "\n".join([f"{self.path} for {self.engine} {self.version}: {self.agreement}", *lines, *packed, *notes])

    def _rows(self) -> list[tuple[str, str, str, str]]:
        sizes = (self.reference_bytes, self.float_bytes, self.bytes)
        times = (self.reference_latency, self.float_latency, self.latency)
        rows = [_row("bytes", ("" if each is None else f"{each:,}" for each in sizes))]
        if self.latency is not None:
            rows.append(_row("CPU time", ("" if each is None else f"{each.median:.3g} ms" for each in times)))
        share = self.integer_share
        return rows if share is None else [*rows, ("integer layers", "", "", f"{share:.0%}")]


def _row(name: str, cells: Iterable[str]) -> tuple[str, str, str, str]:
    reference, plain, own = cells
    return name, reference, plain, own


def export(
    model: nn.Module,
    example_inputs: Any,
    path: str | Path,
    *,
    engine: str = DEFAULT,
    data: Iterable[Any] | None = None,
    dynamic: Sequence[str] = ("batch",),
    reference: nn.Module | None = None,
    tolerance: float | None = None,
    forward: Forward | None = None,
    allow_slower: bool = False,
    repetitions: int = 20,
    packed: bool = False,
    **options: Any,
) -> Exported:
    """Write a model for an engine, open the file there, compare it with the unquantized model, and measure it.

    The file is right if, over at least 32 samples, its outputs are no further from those of the unquantized model than
    the simulation's are (root mean square, 10% more where that is no chance), and 99% of the clear decisions agree.

    Args:
        model: with the quantizers that a recipe put on it, or without; it stays as it is.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of named ones.
        engine: its name: `paredown.framework.engine.registry.engines`.
        data: batches to compare on; without it the example inputs, with noise.
        dynamic: ``("batch",)``: the first dimension of the inputs may be any; ``()``: all shapes are fixed.
        reference: the original model, for its size and speed in the same engine.
        tolerance: the largest absolute difference from the simulation that is accepted, in place of the above.
        forward: called as ``forward(model, example_inputs)`` where the above does not fit.
        allow_slower: accept a file that is slower than the same model in floating point.
        repetitions: how often speed is measured; 0 leaves that, and what is only written for it, out.
        packed: store each constant in the smallest of several codes (few bits, indices into few values, positions of
            what is not zero), and unpack it by operators that the engine computes once, when it opens the file. It is
            seen that the engine makes the same graph of that file, and that it gives the same bits.
        options: of the engine: see its module.

    Raises:
        ExportError: packed files are not written for the engine; the engine is unknown or not installed, something
            cannot be written, the file computes something else (it stays, for a look into it), or is slower than the
            float model.
    """
    program, path = engine_called(engine), Path(path)
    if packed:
        require_packing(program)
    made = _Making(program, model, example_inputs, path, forward, tuple(dynamic), options)
    result = made.checked(data, tolerance)
    if packed:
        result = made.packed(result, measured=repetitions > 1)
    if repetitions < 2:
        return result
    result = made.measured(result, reference, repetitions)
    return _judged(result, allow_slower)


@dataclass
class _Making:
    """One export on its way."""

    engine: Engine
    model: nn.Module
    example_inputs: Any
    path: Path
    forward: Forward | None
    dynamic: tuple[str, ...]
    options: Mapping[str, Any]
    samples: Sequence[Any] = ()

    def write(self, model: nn.Module, path: Path) -> Written:
        return self.engine.write(
            model, self.example_inputs, path, forward=self.forward, dynamic=self.dynamic, **self.options
        )

    def checked(self, data: Iterable[Any] | None, tolerance: float | None) -> Exported:
        """The file, as the engine wrote it or as it mended it, if it agrees."""
        written, mended = self.write(self.model, self.path), False
        remarks = tuple(written.remarks)
        self.samples = samples_of(self.example_inputs, data, self.forward, fixed=not written.dynamic)
        models = plain_copy(self.model), eval_copy(self.model)
        while True:
            result, fault = self._compared(written, models, tolerance, mended)
            if fault is None:
                return result
            remark = self.engine.mend(self.path, self.samples, parting(result.layers))
            if remark is None:
                raise ExportError(f"{self.path}: {fault}\n{table(result.layers)}")
            written, mended = replace(written, remarks=(*remarks, remark)), True

    def _compared(
        self, written: Written, models: tuple[nn.Module, nn.Module], tolerance: float | None, mended: bool
    ) -> tuple[Exported, str | None]:
        """What came out, and what is wrong with it, if anything is.

        Args:
            models: the unquantized one and the simulation.
        """
        session, inside = self.engine.open(self.path), self.engine.open(self.path, results=written.results)
        modules = dict(models[0].named_modules())
        names = written.results or layers_in(models[0])
        kinds = {name: base_class(modules[name]).__name__ for name in names if name in modules}
        places = {name: written.modules.get(name, name) for name in kinds}
        agreements, errors = Agreements(mended), LayerErrors()
        for batch in self.samples:
            (want, dense), (near, simulated) = (self._run(model, batch, places) for model in models)
            agreements.add(want, near, session.run(batch), str(self.path))
            errors.add(dense, simulated, inside.run_inside(batch))
        found = agreements.found()
        faults = (each.fault(tolerance, mended) for each in found)
        worst = max(found, key=lambda each: each.engine / max(each.magnitude, 1e-30))
        result = Exported(
            self.path, worst, self.engine.bytes(self.path), self.engine.name, self.engine.version,
            layers=tuple(errors.rows(kinds, session.layers)), operators=session.operators,
            remarks=tuple(written.remarks), mended=mended,
        )  # fmt: skip
        return result, next((each for each in faults if each is not None), None)

    def packed(self, result: Exported, measured: bool) -> Exported:
        """The file with its constants packed."""
        found = pack(self.engine, self.path, self.samples, measured)
        remarks = (*result.remarks, *found.remarks)
        return replace(result, bytes=self.engine.bytes(self.path), packed=found, remarks=remarks)

    def _run(self, model: nn.Module, batch: Any, places: Mapping[str, str]) -> tuple[Sequence[Tensor], Results]:
        """A model's outputs, and the results of its layers."""
        with layer_results(model, places) as results:
            return outputs_of(model, batch, self.forward), results

    def measured(self, result: Exported, reference: nn.Module | None, repetitions: int) -> Exported:
        """With sizes, and speeds where the engine tells them, of the file, of the same model in floating point, and of
        the reference."""
        models = {
            "float": plain_copy(self.model),
            **({} if reference is None else {"reference": plain_copy(reference)}),
        }
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder) / f"{name}{self.path.suffix}" for name in models}
            for name, model in models.items():
                self.write(model, paths[name])
            sizes = {name: self.engine.bytes(path) for name, path in paths.items()}
            times = self._times({**paths, "file": self.path}, repetitions)
        original = "float" if reference is None else "reference"
        return replace(
            result, float_bytes=sizes["float"], reference_bytes=sizes[original], latency=times.get("file"),
            float_latency=times.get("float"), reference_latency=times.get(original),
        )  # fmt: skip

    def _times(self, paths: Mapping[str, Path], repetitions: int) -> dict[str, Latency]:
        """CPU time of a run of each file; none where the engine's time is not to be measured here."""
        if self.engine.untimed is not None:
            return {}
        sessions = {name: self.engine.open(path) for name, path in paths.items()}
        return latencies(sessions, self.example_inputs, repetitions)


def _judged(result: Exported, allow_slower: bool) -> Exported:
    """With a remark where the file is slower than the same model in floating point, or refused for it."""
    own, plain = result.latency, result.float_latency
    if own is None or plain is None or own.low <= plain.high * SLOWER:
        return result
    told = f"the file takes {own} for a run, the same model in floating point {plain}"
    if allow_slower or plain.median < MILLISECONDS or result.mended:
        return replace(result, remarks=(*result.remarks, told))
    raise ExportError(
        f"{result.path}: {told}: it is smaller, but slower; allow_slower=True accepts that\n{table(result.layers)}"
    )
