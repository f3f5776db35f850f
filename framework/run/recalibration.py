"""Keeping the statistics of batch-norms those of the model as it becomes: after a change, and at the end of a run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.calibration.batch_norms import (
    Statistics,
    batch_norms_of,
    has_batch_norms,
    mean_statistics,
    recalibrate_,
    set_statistics_,
)
from paredown.framework.errors import ParedownError, TargetError
from paredown.framework.model.batches import samples_in
from paredown.framework.model.targets import named_modules
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.run import Run
from paredown.framework.modifier.training import Training

__all__ = ["Recalibration"]

#: part of the running averages that may be older than the last change
STALE = 0.01
#: fewer samples than these say less than the statistics that are there, unless they are asked for
LEAST_SAMPLES = 16
#: training steps that have to follow a change of values for what was before it to be told apart
LEAST_STEPS = 8


class Recalibration:
    """What is known of a run's batch-norms, for the modifiers that want them estimated anew.

    Where nothing is trained it is done after each change, on ``data``. In a loop the running averages follow by
    themselves; what they were at the last change is kept, so that `finish` knows how much of them is older than it,
    and can take that out of them where there is no data.

    Attributes:
        kept: by name, what averages were at the last change that enough steps follow, and of how many batches.
        changed: by name, of how many batches they were at the last change.
        step: of the last change.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.kept: dict[str, tuple[Tensor, Tensor, int]] = {}
        self.changed: dict[str, int] = {}
        self.step = 0

    @contextmanager
    def around(self, modifier: Modifier, training: Training) -> Iterator[None]:
        """Around an update: note what it changes, and estimate anew at once what will not be trained on."""
        if modifier.recalibrates is False or not has_batch_norms(self.run.model):
            yield
            return
        at_once = self.run.clock is None or modifier.acts_once
        before = _marks(self.run.model) if at_once else {}
        yield
        if at_once:
            self._at_once(modifier, training, _changed_since(before, self.run.model))
        self._note(modifier)

    def finish(self, modifiers: Sequence[Modifier], training: Training | None) -> None:
        """At the end of a loop: estimate anew, or rid of what is older than the last change, what is stale.

        Args:
            modifiers: whose windows opened.
            training: as the last of those sees it that want it; None: there is none.
        """
        if training is None or self.run.clock is None or not self.changed or self._is_quantized(modifiers):
            return
        asked = any(modifier.recalibrates for modifier in modifiers)
        frozen = self._frozen()
        if not asked and not self._is_stale(frozen):
            return
        if training.data.repeatable:
            last = next(modifier for modifier in reversed(modifiers) if modifier.recalibrates is not False)
            self._on_data(training, None, last.recalibration_samples, asked, frozen)
            return
        statistics = mean_statistics(self._of_the_loop(frozen))
        set_statistics_(self.run.model, statistics)
        training.record("batch-norms", estimated=len(statistics), of="the loop's own batches")
        if asked or any(modifier.structural for modifier in modifiers):
            self._tell_what_is_older(training, {*statistics, *frozen})

    def to_plain(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "kept": {name: [*each] for name, each in self.kept.items()},
            "changed": dict(self.changed),
            "step": self.step,
        }

    def restore(self, plain: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.kept = {name: (mean, variance, count) for name, (mean, variance, count) in plain["kept"].items()}
        self.changed, self.step = dict(plain["changed"]), plain["step"]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _at_once(self, modifier: Modifier, training: Training, changed: Sequence[nn.Module] | None) -> None:
        if changed is not None and not changed:
            return
        if training.data.repeatable or (modifier.recalibrates and training.data.available):
            strict = bool(modifier.recalibrates) or (modifier.structural and self.run.clock is None)
            self._on_data(training, changed, modifier.recalibration_samples, strict)

    def _on_data(
        self,
        training: Training,
        changed: Sequence[nn.Module] | None,
        samples: int | None,
        strict: bool,
        leave: Collection[str] = (),
    ) -> None:
        """Estimate anew; where that cannot be done and nobody asked for it, say so and leave them."""
        try:
            if not strict:
                _refuse_few(training)
            names = recalibrate_(training, changed, samples, leave)
        except ParedownError as error:
            if strict:
                raise
            training.record("batch-norms", remark=f"the statistics of batch-norms are left as they were: {error}")
        else:
            training.record("batch-norms", estimated=len(names), of="data")

    def _note(self, modifier: Modifier) -> None:
        norms, clock = batch_norms_of(self.run.model), self.run.clock
        self.changed = {name: int(norm.num_batches_tracked) for name, norm in norms.items()}
        self.step = self.run.step
        left = None if clock is None or clock.run_steps is None else clock.run_steps - clock.steps
        if left is None or left >= (1 if modifier.structural else LEAST_STEPS):
            self.kept = {
                name: (norm.running_mean.clone(), norm.running_var.clone(), self.changed[name])
                for name, norm in norms.items()
            }

    def _frozen(self) -> set[str]:
        """The batch-norms whose statistics training left alone: what follows them was trained for these."""
        norms = batch_norms_of(self.run.model)
        trained = self.run.step > self.step
        return {name for name, norm in norms.items() if trained and self._batches_since(name, norm) == 0}

    def _batches_since(self, name: str, norm: Any) -> int:
        return int(norm.num_batches_tracked) - self.changed.get(name, 0)

    def _is_stale(self, frozen: Collection[str]) -> bool:
        norms = batch_norms_of(self.run.model)
        return any(
            _older_part(norm, self.changed.get(name, 0)) > STALE for name, norm in norms.items() if name not in frozen
        )

    def _is_quantized(self, modifiers: Sequence[Modifier]) -> bool:
        """Whether something was rounded for the statistics as they are."""
        return any("grid" in modifier.claims for modifier in modifiers)

    def _tell_what_is_older(self, training: Training, known: Collection[str]) -> None:
        older = [name for name in batch_norms_of(self.run.model) if name not in known]
        if older:
            training.record(
                "batch-norms",
                remark=f"no batch followed the last change: the statistics of {len(older)} batch-norms ({older[0]}) "
                "are those from before it; let the window end earlier, or give modify(..., data=loader)",
            )

    def _of_the_loop(self, frozen: Collection[str]) -> Statistics:
        """The averages over what the loop has trained on since the last change that enough steps followed."""
        found: Statistics = {}
        for name, norm in batch_norms_of(self.run.model).items():
            mean, variance, batches = self.kept.get(name, (norm.running_mean[:0], norm.running_var[:0], 0))
            part = _older_part(norm, batches)
            if name in frozen or mean.shape != norm.running_mean.shape or part > 1 - 1e-4:
                continue
            found[name] = (
                _without(norm.running_mean, mean, part),
                _without(norm.running_var, variance, part).clamp_(min=0),
            )
        return found


def _older_part(norm: Any, batches: int) -> float:
    """How much of a running average is older than its last batches, those after so many."""
    total = int(norm.num_batches_tracked)
    if norm.momentum is None:
        return batches / max(total, 1)
    return float((1 - norm.momentum) ** (total - batches))


def _without(average: Tensor, older: Tensor, part: float) -> Tensor:
    """A running average without the part of it that is an older one."""
    wide = average.to(torch.float64)
    return ((wide - part * older.to(wide)) / (1 - part)).to(average.dtype)


def _refuse_few(training: Training) -> None:
    """Raise TargetError where there are too few samples to go by."""
    seen = 0
    for batch in training.data.first(LEAST_SAMPLES):
        seen += samples_in(batch)
    if seen < LEAST_SAMPLES:
        raise TargetError(f"data has {seen} samples; at least {LEAST_SAMPLES} are needed")


def _marks(model: nn.Module) -> dict[str, tuple[nn.Module, list[tuple[nn.Parameter, int, torch.Size]]]]:
    """The modules with what changes when their own parameters do."""
    return {
        name: (module, [(each, each._version, each.shape) for each in module.parameters(recurse=False)])
        for name, module in named_modules(model).items()
    }


def _changed_since(before: Mapping[str, tuple[nn.Module, list[Any]]], model: nn.Module) -> list[nn.Module] | None:
    """The modules that are new, or whose own parameters changed; None where modules are gone from the model."""
    after = _marks(model)
    if not before.keys() <= after.keys():
        return None
    return [module for name, (module, marks) in after.items() if not _alike(before.get(name), (module, marks))]


def _alike(old: tuple[nn.Module, list[Any]] | None, new: tuple[nn.Module, list[Any]]) -> bool:
    if old is None or old[0] is not new[0] or len(old[1]) != len(new[1]):
        return False
    return all(a[0] is b[0] and a[1:] == b[1:] for a, b in zip(old[1], new[1], strict=True))
