"""`Plan`: what a recipe will do to a model, layer by layer, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from torch import nn

from paredown.framework.calibration.batch_norms import has_batch_norms
from paredown.framework.errors import ExportError, ParedownError, first_line
from paredown.framework.measure.counts import measure_model
from paredown.framework.model.batches import Batches
from paredown.framework.modifier.base import Foreseen, Modifier
from paredown.framework.modifier.registry import registry
from paredown.framework.modifier.run import Run
from paredown.framework.modifier.training import Training
from paredown.framework.recipe import Recipe
from paredown.framework.run.order import order_remarks
from paredown.framework.run.rehearsal import ForeseenFile, rehearse
from paredown.framework.run.schedule import Schedule, check_claims

__all__ = ["Plan", "PlannedModifier", "make_plan"]


@dataclass(frozen=True)
class PlannedModifier:
    """One modifier of a plan.

    ``start`` and ``end`` are as the recipe has them; ``steps`` is the window in optimizer steps where these are known.
    """

    name: str
    type: str
    start: str
    end: str
    steps: tuple[int, int] | None
    layers: tuple[Foreseen, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a recipe will do to a model: which layers each modifier matched, when, and the size to be expected.

    ``parameters`` and ``bits`` (weights and biases at their widths, zeros not stored) are pairs (before, after);
    ``macs`` too, None without example inputs. ``file`` is what is foreseen of the file for the recipe's engine; None
    without engine or example inputs.
    """

    recipe: str
    modifiers: tuple[PlannedModifier, ...]
    parameters: tuple[int, int]
    bits: tuple[int, int]
    macs: tuple[int, int] | None
    run_epochs: float | None
    steps_per_epoch: int | None
    file: ForeseenFile | None = None
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"Plan of {self.recipe}" + (f", {self.run_epochs:g} epochs" if self.run_epochs else "")]
        for modifier in self.modifiers:
            lines += ["", *_modifier_lines(modifier, self.steps_per_epoch)]
        lines += ["", *self._totals(), *(f"  note: {remark}" for remark in self.remarks)]
        return "\n".join(lines)

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """The timeline as a matplotlib figure, also written to a file such as ``plan.png`` where a path is given.

        Raises:
            ParedownError: matplotlib (``paredown[report]``) is not installed, or the file cannot be written.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ParedownError("Plan.plot needs matplotlib: pip install 'paredown[report]'") from None
        figure = Figure(figsize=(8, 1 + 0.4 * len(self.modifiers)), layout="constrained")
        axes = figure.subplots()
        for place, modifier in enumerate(self.modifiers):
            left, right = modifier.steps or (0, 1)
            axes.barh(place, max(right - left, 1), left=left, height=0.6)
        axes.set_yticks(range(len(self.modifiers)), [modifier.name for modifier in self.modifiers])
        axes.invert_yaxis()
        axes.set_xlabel("optimizer steps")
        if path is not None:
            try:
                figure.savefig(path)
            except (OSError, ValueError) as error:
                raise ParedownError(f"the plot cannot be written to {path}: {first_line(error)}") from None
        return figure

    def _totals(self) -> list[str]:
        rows = [
            ("parameters", *self.parameters),
            ("bytes of parameters, zeros not stored", self.bits[0] // 8, self.bits[1] // 8),
        ]
        if self.macs is not None:
            rows.append(("multiply-accumulates", *self.macs))
        if self.file is not None:
            rows.append((f"bytes of the file for {self.file.engine}", *self.file.bytes))
            if self.file.packed is not None:
                rows.append(("bytes of it, packed", self.file.bytes[0], self.file.packed))
            rows.append(("bytes of it, zipped", *self.file.zipped))
        told = [_row(name, f"{before:,}", f"{after:,}", after / max(before, 1)) for name, before, after in rows]
        if self.file is not None and self.file.latency is not None:
            before, after = self.file.latency
            told.append(_row(f"milliseconds in {self.file.engine}", f"{before:.3g}", f"{after:.3g}", after / before))
        return told + ([] if self.file is None or not self.file.zeros else [_zeros_pay(self.file.zeros)])


def _zeros_pay(words: Mapping[str, str]) -> str:
    """What zeros are worth, in the engines that say so, and by the modifiers that take out what is worth nothing."""
    removing = [name for name, kind in registry().types.items() if kind.removes]
    told = [f"{name}: {text}" for name, text in words.items()]
    told += [f"{' and '.join(removing)} remove weights for every engine"] if removing else []
    return f"  zeros in time: {'; '.join(told)}"


def _row(name: str, before: str, after: str, ratio: float) -> str:
    return f"  {name:<38}{before:>16} -> {after:>16}  (x{ratio:.3f})"


def make_plan(recipe: Recipe, schedule: Schedule, rehearsed: bool = False, packed: bool = False) -> Plan:
    """The plan of a schedule that has not begun.

    Args:
        rehearsed: whether the file for the recipe's engine is foreseen too.
        packed: whether that file's constants are packed.

    Raises:
        ParedownError: what ``modify`` would refuse about the targets, the windows and the claims.
    """
    run = schedule.run
    check_claims(schedule)
    planned = tuple(
        _planned(modifier, schedule.of(modifier), order_remarks(schedule, modifier)) for modifier in schedule.modifiers
    )
    before = {name: _own_parameters(module) for name, module in run.model.named_modules()}
    lines = [line for modifier in planned for line in modifier.layers if not line.refused]
    file, reason = _file(recipe, run, packed) if rehearsed else (None, None)
    return Plan(
        recipe=recipe.name,
        modifiers=planned,
        parameters=(sum(before.values()), sum(_counts(before, lines).values())),
        bits=(_bits(run.model), _bits_after(run.model, before, lines)),
        macs=_macs(run, before, lines),
        run_epochs=recipe.run_epochs,
        steps_per_epoch=None if run.clock is None else run.clock.steps_per_epoch,
        file=file,
        remarks=() if reason is None else (reason,),
    )


def _file(recipe: Recipe, run: Run, packed: bool) -> tuple[ForeseenFile | None, str | None]:
    """What is foreseen of the file for the recipe's engine, or why nothing is."""
    if run.engine is None or not Batches(run.inputs, "plan").has_example:
        return None, None
    try:
        file = rehearse(recipe, run.model, run.inputs, run.engine, packed)
        return file, _estimate(file)
    except ExportError as error:
        return None, str(error)


def _estimate(file: ForeseenFile) -> str | None:
    if not file.estimated:
        return None
    return (
        f"the file is an estimate: {', '.join(file.estimated)} changes the structure after training, by what the "
        "weights are then"
    )


def _planned(modifier: Modifier, training: Training, of_order: Sequence[str]) -> PlannedModifier:
    remarks = [f"{field} is set but has no effect here" for field in modifier.unused_fields()]
    if modifier.acts_once and "end" in modifier.model_fields_set:
        remarks.append("end is set but has no effect: it acts once, at start")
    remarks += [*modifier.remarks(training), *of_order]
    remarks += _recalibration(modifier, training)
    window = training.window
    end = str(modifier.end) if modifier.end is not None else "the end of the run"
    return PlannedModifier(
        name=modifier.name,
        type=modifier.type,
        start=str(modifier.start),
        end=str(modifier.start) if modifier.acts_once else end,
        steps=None if window is None else (window.start, window.end),
        layers=tuple(modifier.foresee(training)),
        remarks=tuple(remarks),
    )


def _recalibration(modifier: Modifier, training: Training) -> Sequence[str]:
    first = next(iter(training.targets()), None) if modifier.recalibrates is None else None
    if first is None or training.data.available or not has_batch_norms(training.model, behind=first):
        return ()
    return [
        "the statistics of batch-norms are estimated again where data is given, or from the training loop's batches"
    ]


def _modifier_lines(modifier: PlannedModifier, steps_per_epoch: int | None) -> list[str]:
    steps = "" if modifier.steps is None else f", steps {modifier.steps[0]} to {modifier.steps[1]}"
    lines = [f"{modifier.name} ({modifier.type}): from {modifier.start} to {modifier.end}{steps}"]
    lines += [f"  {line.layer:<32} {'left alone: ' if line.refused else ''}{line.effect}" for line in modifier.layers]
    return lines + [f"  note: {remark}" for remark in modifier.remarks]


def _own_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


def _counts(before: dict[str, int], lines: Sequence[Foreseen]) -> dict[str, int]:
    after = dict(before)
    after.update({line.layer: line.parameters for line in lines if line.parameters is not None})
    return after


def _bits(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() * 8 for parameter in model.parameters())


def _bits_after(model: nn.Module, before: dict[str, int], lines: Sequence[Foreseen]) -> int:
    total = _bits(model)
    counts = _counts(before, lines)
    for name, module in model.named_modules():
        own = [line for line in lines if line.layer == name]
        if not own or not before[name]:
            continue
        width = next(module.parameters(recurse=False)).element_size() * 8
        bits = min((line.bits for line in own if line.bits is not None), default=width)
        density = min((line.density for line in own if line.density is not None), default=1.0)
        total += round(counts[name] * density * bits) - before[name] * width
    return total


def _macs(run: Run, before: dict[str, int], lines: Sequence[Foreseen]) -> tuple[int, int] | None:
    inputs = Batches(run.inputs, "plan").example_inputs
    if inputs is None:
        return None
    measured = measure_model(run.model, inputs)
    counts = _counts(before, lines)
    per_layer = {layer.name: layer.macs or 0 for layer in measured.layers}
    gone = sum(macs * (1 - counts.get(name, 1) / max(before.get(name, 1), 1)) for name, macs in per_layer.items())
    total = measured.weight_macs or 0
    return total, round(total - gone)
