"""Measures a model before and after its compression, and makes the report of the run."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.distributed.shards import sharded_in
from paredown.framework.engine.contract import Engine
from paredown.framework.engine.timing import measure_in
from paredown.framework.errors import ExportError, ParedownError, first_line
from paredown.framework.measure.counts import LayerMeasures, ModelMeasures, measure_model
from paredown.framework.measure.latency import Latency
from paredown.framework.measure.size import bytes_on_disk, stored_codes
from paredown.framework.model.batches import Batches
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.run import Run
from paredown.framework.recipe import Recipe
from paredown.framework.report.metrics import Measured, declared, measure, named
from paredown.framework.report.report import Report
from paredown.framework.report.summary import Curve, LayerRow, Summary

__all__ = ["Reporter", "versions"]

Quartiles = tuple[float, float, float]

SHARDED = "the model is split among processes: bytes on disk and latency are not measured"
SIMULATED = "quantization is simulated in floating point here: latency is PyTorch's, not that of an integer runtime"
NO_DENSE_LATENCY = "the dense model's latency is not measured: no copy of it was kept (report(dense=model) gives one)"


class Reporter:
    """Counts the dense model when it is made, and compares the compressed one with it later.

    Args:
        run: the run; its model is counted at once.
        recipe: the recipe of the run.
    """

    def __init__(self, run: Run, recipe: Recipe) -> None:
        self.run = run
        self.recipe = recipe
        self.before, _, trouble = self._counted()
        if trouble:
            raise ParedownError(f"example_inputs: {trouble[0]}")
        self.plain_bytes = _plain_bytes(run.model)

    def report(
        self,
        evaluate: Callable[[nn.Module], Any] | None = None,
        dense: nn.Module | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Report:
        """The comparison, measured now.

        Args:
            evaluate: returns a number, or a mapping from metrics to numbers.
            dense: the original model, for its file, latency and metrics; by default the copy that was kept as a
                teacher, if one was.
            metrics: their directions and units, as of `paredown.Task`; by default a share that has no name is the
                accuracy, and of others it is not known which is better.

        Raises:
            ParedownError: ``evaluate`` or ``metrics`` is not that.
        """
        model = self.run.model
        dense = self.run.teachers.initial if dense is None else dense
        known = declared(metrics) if metrics else ()
        models = [] if evaluate is None else [one for one in (dense, model) if one is not None]
        found, measured = named(known, [measure(evaluate, one) for one in models] if evaluate else [])
        after, inputs, trouble = self._counted()
        latencies, untimed = self._latencies(dense, inputs)
        return Report(
            recipe=self.recipe.name,
            recipe_text=self.recipe.to_yaml(),
            dense=_summary(self.before, dense, self.plain_bytes, latencies[0], measured[:-1]),
            compressed=_summary(after, model, _plain_bytes(model), latencies[1], measured[-1:]),
            layers=tuple(_rows(self.before, after)),
            windows=tuple(_windows(self.recipe.modifiers.values(), self.run)),
            events=tuple(self.run.events),
            history=tuple(_history(self.run)),
            notes=(*_notes(model, inputs, dense, self.run.engine), *trouble, *untimed, *_remarks(self.run)),
            versions=versions(),
            engine="" if self.run.engine is None else self.run.engine.name,
            metrics=found if measured else (),
        )

    def _counted(self) -> tuple[ModelMeasures, Any, list[str]]:
        """The counts and the example inputs; where the model cannot run on these, without them and with the reason."""
        model, inputs = self.run.model, Batches(self.run.inputs, "report").example_inputs
        try:
            return measure_model(model, inputs), inputs, []
        except (RuntimeError, TypeError, ValueError) as error:
            if inputs is None:
                raise
            return (
                measure_model(model),
                None,
                [f"the model could not be run on the example inputs: {first_line(error)}"],
            )

    def _latencies(
        self, dense: nn.Module | None, inputs: Any
    ) -> tuple[tuple[Quartiles | None, Quartiles | None], list[str]]:
        """Of both, in the engine; and why it could not be measured there."""
        if inputs is None or sharded_in(self.run.model.parameters()):
            return (None, None), []
        models = {} if dense is None else {"dense": dense}
        try:
            measured = measure_in(self.run.engine, {**models, "compressed": self.run.model}, inputs)
        except ExportError as error:
            return (None, None), [f"latency was not measured: {first_line(error)}"]
        return (_quartiles(measured.get("dense")), _quartiles(measured.get("compressed"))), []


def versions() -> dict[str, str]:
    """The versions of Python, torch and paredown, on which the numbers depend."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "paredown": _own_version()}


def _own_version() -> str:
    try:
        return importlib.metadata.version("paredown")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # a checkout on the path has no metadata, and no version that would identify it


def _summary(
    counted: ModelMeasures,
    model: nn.Module | None,
    plain_bytes: int,
    latency: Quartiles | None,
    measured: Sequence[Measured],
) -> Summary:
    return Summary(
        parameters=counted.parameters,
        nonzeros=counted.nonzeros,
        bytes=None if model is None or sharded_in(model.parameters()) else bytes_on_disk(model),
        bytes_plain=plain_bytes,
        macs=counted.weight_macs,
        latency=latency,
        values={name: (value,) for one in measured for name, value in one.items()},
    )


def _quartiles(latency: Latency | None) -> Quartiles | None:
    return None if latency is None else (latency.low, latency.median, latency.high)


def _plain_bytes(model: nn.Module) -> int:
    tensors = [tensor for tensor in model.state_dict().values() if isinstance(tensor, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def _rows(before: ModelMeasures, after: ModelMeasures) -> Iterable[LayerRow]:
    for dense in before.layers:
        heirs = [one for one in after.layers if one.name == dense.name or one.name.startswith(f"{dense.name}.")]
        now = _together(heirs, dense)
        yield LayerRow(
            name=dense.name,
            kind=dense.kind,
            parameters=(dense.parameters, now.parameters),
            nonzeros=(dense.nonzeros, now.nonzeros),
            bits=(dense.bits / max(dense.parameters, 1), now.bits / max(now.parameters, 1)),
            macs=None if dense.macs is None else (dense.macs, now.macs or 0),
        )


def _together(layers: list[LayerMeasures], dense: LayerMeasures) -> LayerMeasures:
    return LayerMeasures(
        name=dense.name,
        kind=dense.kind,
        parameters=sum(layer.parameters for layer in layers),
        nonzeros=sum(layer.nonzeros for layer in layers),
        bits=sum(layer.bits for layer in layers),
        macs=sum(layer.macs or 0 for layer in layers),
    )


def _windows(modifiers: Iterable[Modifier], run: Run) -> Iterable[dict[str, Any]]:
    for modifier in modifiers:
        row: dict[str, Any] = {"name": modifier.name, "type": modifier.type}
        if run.clock is not None:
            window = run.clock.window(modifier.span)
            row |= {"start": window.start, "end": window.end, "steps_per_epoch": run.clock.steps_per_epoch}
        yield row


def _history(run: Run) -> Iterable[Curve]:
    """The numbers that modifiers recorded with their updates, as curves over epochs that go on to the present."""
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for event in run.events:
        for name, value in event.items():
            if event["event"] == "update" and isinstance(value, float) and name != "epoch":
                curves.setdefault((name, event["modifier"]), []).append((event["epoch"], value))
    now = run.epoch
    for (name, modifier), points in curves.items():
        last, value = points[-1]
        yield Curve(name, (*points, (now, value)) if last < now else tuple(points), modifier)


def _remarks(run: Run) -> Iterable[str]:
    """The remarks that modifiers recorded during the run, each once."""
    return dict.fromkeys(f"{event['modifier']}: {event['remark']}" for event in run.events if "remark" in event)


def _notes(model: nn.Module, inputs: Any, dense: nn.Module | None, engine: Engine | None) -> Iterable[str]:
    if sharded_in(model.parameters()):
        yield SHARDED
        return
    if inputs is not None and engine is None and any(stored_codes(module) for module in model.modules()):
        yield SIMULATED
    if inputs is not None and dense is None:
        yield NO_DENSE_LATENCY
