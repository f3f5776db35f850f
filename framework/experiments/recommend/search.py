"""The search: prices without training, short runs of the most promising mixtures, and the best one in full."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from paredown.framework.errors import ParedownError, first_line
from paredown.framework.experiments.recommend.budgets import Budget, unmet
from paredown.framework.experiments.recommend.costs import CostTable
from paredown.framework.experiments.recommend.losses import LossModel
from paredown.framework.experiments.recommend.mixtures import Choice, Mixture, mixtures
from paredown.framework.experiments.recommend.trials import Trials
from paredown.framework.report.metrics import Measured, Metric

__all__ = ["Candidate", "Search"]

#: mixtures in short runs, in longer ones, and the shares of a full run that these take
FIRST, SECOND = 5, 2
SHORT, LONGER = 1 / 8, 1 / 4
#: optimizer steps that a short run has at least
LEAST_STEPS = 24
#: mixtures that are measured without training, at most; and the share of a bound that estimates are held to
MEASURED, MARGIN = 24, 0.97
#: how often a run in full is followed by another one, twice as long, where it misses a budget
AGAIN = 3
#: of the time, what is left for the last run and what follows it
RESERVE = 1.25
#: of the time, what measuring single choices may take
PRICING = 0.4
#: a choice that takes less than this off all costs that matter is left out
PAYS = 0.98


@dataclass(frozen=True)
class Candidate:
    """A mixture that was tried.

    Attributes:
        mixture: what is done.
        epochs: of its longest run; 0: it was only applied.
        costs: in their own units.
        measured: what it reached after that.
        excess: of each budget that it misses, by how much.
    """

    mixture: Mixture
    epochs: float
    costs: Mapping[str, float]
    measured: Measured
    excess: Mapping[str, float]

    @property
    def missed(self) -> float:
        """The largest excess."""
        return max(self.excess.values(), default=0.0)


@dataclass
class Search:
    """One search for the mixture that meets the budgets with the least loss.

    Attributes:
        budgets: what is to be met.
        metric: the one that decides.
        limit: seconds that it may take.
        tell: is called with a line whenever something takes time.
        reasons: in words, what was left out and why.
        candidates: what was tried, the last state of each.
    """

    trials: Trials
    budgets: Sequence[Budget]
    metric: Metric
    choices: Sequence[Choice]
    limit: float
    tell: Callable[[str], None]
    reasons: list[str] = field(default_factory=list)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    losses: LossModel = field(default_factory=LossModel)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.limit
        self.table = CostTable(self.trials.dense_costs)
        self.unit = float(max(self.trials.task.dense_epochs, 1))

    def run(self) -> Candidate:
        """Search; returns the best candidate."""
        useful = self._priced()
        every = mixtures(useful)
        if self.trials.one_shot:
            return self._without_training(every)
        first = self._promising(every, FIRST, {})
        self._runs(first, self._short(SHORT))
        second = self._promising(every, SECOND, self.losses.estimates())
        self._runs(second, self._short(LONGER))
        return self._in_full(every)

    def best(self) -> Candidate:
        """The candidate that misses least, and of those the one that was trained longest, and reaches most."""
        return min(self.candidates.values(), key=lambda one: (one.missed, -one.epochs, self._loss(one.measured)))

    # -- without training ----------------------------------------------------------------------------------------

    def _priced(self) -> list[Choice]:
        """The choices that pay, after each was measured alone: of each modifier the largest amount first, and no other
        one where that does not pay."""
        useful: list[Choice] = []
        idle: set[str] = set()
        for choice in _strongest_first(self.choices):
            if choice.type in idle or not self._may_price(choice):
                continue
            alone = Mixture((choice,))
            found = self.trials.at_once(alone)
            if found.refused:
                self.reasons.append(f"{choice.proposal.words} ({choice.type}): refused: {found.refused}")
                continue
            self.table.add(alone, found.costs)
            self.losses.expect(choice, self._loss(found.measured))
            told = ", ".join(f"{name} {found.costs[name]:.3g}x" for name in self._named_costs() if name in found.costs)
            self.tell(f"{choice.proposal.words}: {told}")
            if min((found.costs.get(name, 1.0) for name in self._named_costs()), default=0.0) > PAYS:
                self.reasons.append(f"{choice.proposal.words} ({choice.type}): takes nothing off what is budgeted")
                idle.add(choice.type)
                continue
            useful.append(choice)
        return [choice for choice in self.choices if choice in useful]

    def _may_price(self, choice: Choice) -> bool:
        """Whether there is time to measure a choice alone."""
        if time.monotonic() < self.deadline - (1 - PRICING) * self.limit:
            return True
        self.reasons.append(f"{choice.proposal.words} ({choice.type}): not tried, for want of time")
        return False

    def _named_costs(self) -> list[str]:
        return [budget.name for budget in self.budgets if budget.is_cost]

    def _promising(self, every: Sequence[Mixture], count: int, known: Mapping[str, float]) -> list[Mixture]:
        """So many mixtures, of different kinds, that meet the costs with the least expected loss, as measured without
        training; where none does, those that miss least."""
        estimates = known or self.losses.estimates()
        found: list[Mixture] = []
        for _ in range(MEASURED):
            ahead = self._ordered(every, estimates, found)
            if not ahead or len(found) == count:
                break
            mixture = ahead[0]
            if self._measured(mixture) and self._affordable(mixture, 1.0):
                found.append(mixture)
        return found or [min(every, key=lambda one: (self._cost_excess(one), self.losses.of(one, estimates)))]

    def _ordered(
        self, every: Sequence[Mixture], estimates: Mapping[str, float], found: Sequence[Mixture]
    ) -> list[Mixture]:
        """Those that can be afforded, the least expected loss first, kinds that were not found yet before others."""
        kinds = [_kind(one) for one in found]
        left = (one for one in every if one not in found and self._affordable(one, MARGIN) and one.choices)
        return sorted(left, key=lambda one: (kinds.count(_kind(one)), self.losses.of(one, estimates)))

    def _measured(self, mixture: Mixture) -> bool:
        """Measure a mixture's costs without training; whether that can be done."""
        if mixture.key in self.table.measured:
            return True
        found = self.trials.at_once(mixture)
        if found.refused:
            self._refuse(mixture, found.refused)
            return False
        self.table.add(mixture, found.costs)
        return True

    def _refuse(self, mixture: Mixture, reason: str) -> None:
        """Take a mixture out of the search."""
        self.table.add(mixture, dict.fromkeys(self.trials.dense_costs, math.inf))
        self.reasons.append(f"{mixture.words}: refused: {reason}")
        self.tell(self.reasons[-1])

    def _affordable(self, mixture: Mixture, margin: float) -> bool:
        known = mixture.key in self.table.measured
        return self._cost_excess(mixture, 1.0 if known else margin) == 0

    def _cost_excess(self, mixture: Mixture, margin: float = 1.0) -> float:
        values = {name: value / margin for name, value in self.table.absolute(mixture).items()}
        return max(unmet(self._costs(), values, self._dense()).values(), default=0.0)

    def _costs(self) -> Iterable[Budget]:
        return (budget for budget in self.budgets if budget.is_cost)

    def _without_training(self, every: Sequence[Mixture]) -> Candidate:
        """Of a model without a training loop: the mixtures are judged as they are."""
        for _ in range(2):
            for mixture in self._promising(every, 2 * FIRST, {}):
                if not self._has_time(self.trials.seconds.get("once", 0.0)):
                    break
                begin = time.monotonic()
                self._run(mixture, 0.0)
                self.trials.seconds["once"] = time.monotonic() - begin
        return self.best()

    # -- with training -------------------------------------------------------------------------------------------

    def _short(self, share: float) -> float:
        least = LEAST_STEPS / max(len(self.trials.task.train_loader), 1)
        return round(max(share * self.unit, min(least, self.unit)), 2)

    def _runs(self, chosen: Iterable[Mixture], epochs: float) -> None:
        """Train some mixtures for a while, as far as there is time for the last run afterwards."""
        for mixture in chosen:
            if self._has_time(self._expected(epochs) + RESERVE * self._expected(self.unit)):
                self._run(mixture, epochs)

    def _in_full(self, every: Sequence[Mixture]) -> Candidate:
        """Train the most promising mixture in full; where it misses a budget, another one, or longer."""
        epochs = self.unit
        for turn in range(AGAIN):
            if turn and not self._has_time(RESERVE * self._expected(epochs)):
                break
            chosen = self._most_promising(every, epochs)
            self._run(chosen, epochs, in_full=True)
            if self.best().missed == 0:
                break
            epochs *= 2
        return self.best()

    def _most_promising(self, every: Sequence[Mixture], epochs: float) -> Mixture:
        """Of those that were trained, or are expected to be as good, the one with the least loss."""
        tried = {one.key: self._loss(self.candidates[one.key].measured) for one in every if one.key in self.candidates}
        done = {key for key, one in self.candidates.items() if one.epochs >= epochs}
        able = [one for one in every if one.key in tried and one.key not in done and self._affordable(one, 1.0)]
        if able:
            return min(able, key=lambda one: tried[one.key])
        return self._promising([one for one in every if one.key not in done] or every, 1, self.losses.estimates())[0]

    def _run(self, mixture: Mixture, epochs: float, in_full: bool = False) -> None:
        self.tell(f"{mixture.words}: {'applied' if self.trials.one_shot else f'{epochs:g} epochs'}")
        try:
            if in_full:
                self.trials.outcome(mixture, epochs)
            measured = self.trials.trained(mixture, epochs)
        except ParedownError as error:
            self._refuse(mixture, first_line(error))
            return
        self.losses.learn(mixture, self._loss(measured))
        self._measured(mixture)
        self.note(mixture, epochs, self.table.absolute(mixture), measured)

    def note(self, mixture: Mixture, epochs: float, costs: Mapping[str, float], measured: Measured) -> Candidate:
        """Keep what a mixture costs and reaches."""
        excess = unmet(self.budgets, {**costs, **measured}, self._dense())
        candidate = Candidate(mixture, epochs, dict(costs), dict(measured), excess)
        self.candidates[mixture.key] = candidate
        self.tell("  " + ", ".join(f"{name} {value:.4g}" for name, value in {**costs, **measured}.items()))
        return candidate

    def _dense(self) -> dict[str, float]:
        return {**self.trials.dense_costs, **self.trials.dense_measured}

    def _loss(self, measured: Measured) -> float:
        """By how much the metric that decides is worse than the dense model's, as a share of that."""
        dense, value = (each.get(self.metric.name, math.nan) for each in (self.trials.dense_measured, measured))
        worse = (dense - value) * (self.metric.sign or 1) / max(abs(dense), 1e-12)
        return 1.0 if math.isnan(worse) else worse

    # -- time ----------------------------------------------------------------------------------------------------

    def _expected(self, epochs: float) -> float:
        """Seconds of a run."""
        seconds = self.trials.seconds
        runs = [each / float(key.rpartition("-")[2]) for key, each in seconds.items() if "-" in key]
        dense = seconds.get("dense", 0.0) / self.unit
        return epochs * max([*islice(runs, 8), dense])

    def _has_time(self, seconds: float) -> bool:
        return time.monotonic() + seconds <= self.deadline


def _strongest_first(choices: Sequence[Choice]) -> list[Choice]:
    """The last choice of each modifier, then those before the last, and so on."""
    ranks: Counter[str] = Counter()
    ranked = []
    for choice in reversed(choices):
        ranks[choice.type] += 1
        ranked.append((ranks[choice.type], choice))
    return [choice for _, choice in sorted(ranked, key=lambda each: each[0])]


def _kind(mixture: Mixture) -> tuple[str, ...]:
    """The modifiers of a mixture, without their amounts."""
    return tuple(choice.type for choice in mixture.choices)
