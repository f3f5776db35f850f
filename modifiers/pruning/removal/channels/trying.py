"""Finding what can be cut: each cut is tried out and compared with zeros in the place of what goes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from paredown.modifiers.pruning.removal.channels.analysis import Analysis
from paredown.modifiers.pruning.removal.channels.attributes import (
    Attribute,
    candidates,
    layer_attributes,
    sizes_after,
)
from paredown.modifiers.pruning.removal.channels.cutting import (
    Cut,
    Removal,
    Verified,
    gone_at,
    kept_at,
    labels_gone,
)
from paredown.modifiers.pruning.removal.channels.rounding import beyond_rounding
from paredown.modifiers.pruning.removal.channels.trial import (
    Outputs,
    Runner,
    difference,
    largest_error,
    masked,
    same_shapes,
    tensors_by_name,
    trial_cut,
)

__all__ = ["Trials", "verified"]

#: how many combinations of attributes are tried for one group
ATTEMPTS = 40
#: what sums in another order differ by, in units of the precision
ROUNDING = 16.0

Owner = tuple[str, str]
Attempts = Callable[[Sequence[Removal], Sequence[Attribute]], Iterable[list[Attribute]]]


def verified(model: nn.Module, run: Runner, analysis: Analysis, removals: Sequence[Removal]) -> Verified:
    """The largest part found of a cut that can be made: see `Trials.verified`."""
    return Trials(model, run, analysis).verified(removals)


class Trials:
    """Tries cuts of a model out; the model is as it was afterwards.

    What a trial has found about a size that a module keeps, which groups change it, later trials start from.

    Args:
        model: the user's own module.
        run: from `runner`.
        analysis: of the model as it is.
    """

    def __init__(self, model: nn.Module, run: Runner, analysis: Analysis) -> None:
        self.model, self.run, self.analysis = model, run, analysis
        self.modules = analysis.graph.modules
        self.tensors = tensors_by_name(model)
        self.drivers: dict[Owner, set[str]] = {}

    def verified(self, removals: Sequence[Removal]) -> Verified:
        """The largest part found of a cut with which the model gives what it gives with zeros in place of what goes.

        Args:
            removals: what is to go; of each group at least one unit stays.
        """
        removals = [removal for removal in removals if len(removal.units)]
        refused: dict[str, str] = {}
        parts = self._parts(removals, refused)
        if not parts:
            return Verified(Cut((), {}, ()), refused)
        parts.sort(key=lambda cut: -sum(len(each.units) * each.group.width for each in cut.removals))
        whole = self._all_together(parts) if len(parts) > 1 else parts[0]
        return Verified(whole or self._one_by_one(parts, refused), refused)

    # -- which groups go together ------------------------------------------------------------------------------------

    def _parts(self, removals: Sequence[Removal], refused: dict[str, str]) -> list[Cut]:
        """Sets of groups that can go, each by itself, by halves."""
        if not removals:
            return []
        found, reason = self._tried(removals, self._single if len(removals) == 1 else self._joint)
        if found is not None:
            self._learn(found)
            return [found]
        if len(removals) == 1:
            refused[removals[0].group.name] = str(reason)
            return []
        half = len(removals) // 2
        return self._parts(removals[:half], refused) + self._parts(removals[half:], refused)

    def _all_together(self, parts: Sequence[Cut]) -> Cut | None:
        removals = [removal for part in parts for removal in part.removals]
        return self._tried(removals, lambda _, own: _combined(parts, own, self._now))[0]

    def _one_by_one(self, parts: Sequence[Cut], refused: dict[str, str]) -> Cut:
        """The largest part, with each of the others that goes along."""
        whole = parts[0]
        for part in parts[1:]:
            both = (whole, part)
            removals = [removal for each in both for removal in each.removals]
            found, reason = self._tried(removals, lambda _, own, both=both: _combined(both, own, self._now))  # type: ignore[misc]
            if found is not None:
                whole = found
            else:
                with_it = whole.removals[0].group.name
                refused.update({
                    each.group.name: f"each alone could go, but not together with {with_it}: {reason}"
                    for each in part.removals
                })  # fmt: skip
        return whole

    def _learn(self, cut: Cut) -> None:
        keys = {removal.group.key for removal in cut.removals}
        for attribute in cut.attributes:
            self.drivers.setdefault((attribute.module, attribute.key), set()).update(keys)

    # -- which attributes come with it -------------------------------------------------------------------------------

    def _single(self, removals: Sequence[Removal], own: Sequence[Attribute]) -> Iterator[list[Attribute]]:
        """All, none, and then by kind of module and name."""
        further = self._candidates(removals, own)
        yield further
        if not further:
            return
        yield []
        kinds = list(dict.fromkeys((each.kind, each.key) for each in further))
        pairs = [set(pair) for pair in itertools.combinations(kinds, 2)]
        for some in [*({kind} for kind in kinds), *({*kinds} - {kind} for kind in kinds), *pairs][: ATTEMPTS - 2]:
            yield [each for each in further if (each.kind, each.key) in some]

    def _joint(self, removals: Sequence[Removal], own: Sequence[Attribute]) -> Iterator[list[Attribute]]:
        """What is known of the groups, else all; none."""
        further = self._candidates(removals, own)
        known = self._known(removals, own)
        if known:
            yield [*known, *(each for each in further if (each.module, each.key) not in self.drivers)]
            yield known
        yield further
        if further:
            yield []

    def _candidates(self, removals: Sequence[Removal], own: Sequence[Attribute]) -> list[Attribute]:
        return candidates(self.modules, sizes_after(self.analysis, labels_gone(self.analysis, removals)), own)

    def _known(self, removals: Sequence[Removal], own: Sequence[Attribute]) -> list[Attribute]:
        """The attributes that these groups are known to change, with the values that each of them alone gives."""
        settled = {(each.module, each.key) for each in own}
        values: dict[Owner, list[Attribute]] = {}
        for removal in removals:
            if not any(removal.group.key in keys for keys in self.drivers.values()):
                continue
            for each in self._candidates([removal], ()):
                owner = (each.module, each.key)
                if removal.group.key in self.drivers.get(owner, ()) and owner not in settled:
                    values.setdefault(owner, []).append(each)
        return [_merged(each, self._now) for each in values.values()]

    # -- one trial ---------------------------------------------------------------------------------------------------

    def _tried(self, removals: Sequence[Removal], attempts: Attempts) -> tuple[Cut | None, str | None]:
        gone = gone_at(removals)
        kept = kept_at(gone, self.tensors)
        if any(not len(indices) for indices in kept.values()):
            return None, "nothing of it would stay"
        trial = _Trial(self.model, self.run, gone, kept)
        try:
            trial.wanted  # noqa: B018 - the outputs with zeros, on which everything else depends
        except Exception as error:  # whatever the user's code raises
            return None, f"with zeros in their place its code fails ({_told(error)})"
        own = layer_attributes(self.modules, kept)
        reason = None
        for attempt in attempts(removals, own):
            why = trial.difference([*own, *attempt])
            if why is None:
                return self._cut(removals, trial, own, trial.needed(own, attempt)), None
            reason = reason or why
        return None, reason

    def _cut(
        self, removals: Sequence[Removal], trial: _Trial, own: Sequence[Attribute], attempt: Sequence[Attribute]
    ) -> Cut:
        changed = [each for each in [*own, *attempt] if self._now(each) != each.value]
        sizes = sizes_after(self.analysis, labels_gone(self.analysis, removals)).all[""]
        after = {before: frozenset(each) for before, each in sizes.items()}
        return Cut(tuple(removals), trial.kept, tuple(changed), after)

    def _now(self, attribute: Attribute) -> object:
        return getattr(self.modules[attribute.module], attribute.key)


@dataclass
class _Trial:
    """The model with zeros at some places, against the model without them."""

    model: nn.Module
    run: Runner
    gone: dict[tuple[str, int], torch.Tensor]
    kept: dict[tuple[str, int], torch.Tensor]

    @functools.cached_property
    def wanted(self) -> tuple[Outputs, Outputs | None]:
        """The outputs with zeros, in eval and in training mode."""
        with masked(self.model, self.gone):
            return self.run(), None if self.run.trains == "not" else self.run.training()

    def difference(self, attributes: Sequence[Attribute]) -> str | None:
        """What is different with these attributes; None: nothing."""
        try:
            return self._compared(attributes)
        except Exception as error:  # whatever the user's code raises when a size does not fit
            return f"with fewer channels its code fails ({_told(error)})"

    def _compared(self, attributes: Sequence[Attribute]) -> str | None:
        """Parts that only run in training (an auxiliary head) have to work too, and give the same where they can."""
        wanted, trained = self.wanted
        with trial_cut(self.model, self.kept, attributes):
            ours = self.run()
            theirs = None if trained is None else self.run.training()
        reason = difference(ours, wanted)
        if reason is not None and (not same_shapes(ours, wanted) or self._beyond_rounding(attributes, training=False)):
            return reason
        if trained is None or theirs is None:
            return None
        if not same_shapes(theirs, trained):
            return "in training mode its output has another shape"
        reason = difference(theirs, trained) if self.run.trains == "always alike" else None
        reason = reason and self._beyond_rounding(attributes, training=True)
        return reason and f"in training mode {reason}"

    def _beyond_rounding(self, attributes: Sequence[Attribute], training: bool) -> str | None:
        return beyond_rounding(
            self.run,
            training,
            lambda: masked(self.model, self.gone),
            lambda: trial_cut(self.model, self.kept, attributes),
        )

    def needed(self, own: Sequence[Attribute], attempt: list[Attribute]) -> list[Attribute]:
        """The attributes without which it would not do as well; others that only look like a size stay."""
        if not attempt:
            return attempt
        error = self._error([*own, *attempt])
        for kind in dict.fromkeys((each.kind, each.key) for each in attempt):
            fewer = [each for each in attempt if (each.kind, each.key) != kind]
            alike = self.difference([*own, *fewer]) is None
            if alike and self._error([*own, *fewer]) <= max(4 * error, ROUNDING * _precision(self.wanted[0])):
                attempt = fewer
        return attempt

    def _error(self, attributes: Sequence[Attribute]) -> float:
        with trial_cut(self.model, self.kept, attributes):
            return largest_error(self.run(), self.wanted[0])


def _combined(
    parts: Sequence[Cut], own: Sequence[Attribute], now: Callable[[Attribute], object]
) -> Iterator[list[Attribute]]:
    """The attributes of several cuts at once: where they change the same one, to the same number, or by as much as
    each does."""
    settled = {(each.module, each.key) for each in own}
    values: dict[Owner, list[Attribute]] = {}
    for part in parts:
        for each in part.attributes:
            if (each.module, each.key) not in settled:
                values.setdefault((each.module, each.key), []).append(each)
    yield [_merged(each, now) for each in values.values()]
    if any(len(each) > 1 for each in values.values()):
        yield [_added(each, now) for each in values.values()]


def _merged(values: Sequence[Attribute], now: Callable[[Attribute], object]) -> Attribute:
    return values[0] if len({each.value for each in values}) == 1 else _added(values, now)


def _added(values: Sequence[Attribute], now: Callable[[Attribute], object]) -> Attribute:
    before: Any = now(values[0])
    numbers: list[Any] = [each.value for each in values]
    if not all(isinstance(number, int) for number in (before, *numbers)):
        return values[0]
    return dataclasses.replace(values[0], value=before - sum(before - number for number in numbers))


def _precision(outputs: Outputs) -> float:
    return max((torch.finfo(each.dtype).eps for each in outputs if each.is_floating_point()), default=0.0)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0][:160]
