"""Mixtures: which proposals of which modifiers go together into one recipe, and that recipe."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paredown.framework.modifier.proposals import STAGES, Proposal, Stage
from paredown.framework.modifier.registry import registry
from paredown.framework.recipe import Recipe

__all__ = ["Choice", "Mixture", "known_choices", "mixtures"]

#: of the run, where a stage ends; it begins where the one before ends
ENDS: Mapping[Stage, float] = {"shape": 0.25, "zeros": 0.6, "values": 1.0}
#: where the grid begins, after everything that changes weights by more than training does
GRID = 0.65
NAMES: Mapping[Stage, str] = {
    "shape": "shrink", "zeros": "prune", "values": "share", "grid": "quantize", "teacher": "distill",
    "rate": "learning_rate",
}  # fmt: skip
#: decimals of the epochs at which a window begins or ends
DECIMALS = 4


@dataclass(frozen=True)
class Choice:
    """A proposal of a modifier class."""

    type: str
    number: int
    proposal: Proposal

    @property
    def key(self) -> str:
        """The modifier's type and the number of its proposal: a short name."""
        return f"{self.type}.{self.number}"


@dataclass(frozen=True)
class Mixture:
    """Choices of different stages, in the order in which they act."""

    choices: tuple[Choice, ...] = ()

    @property
    def key(self) -> str:
        """A short name that no other mixture has."""
        return "+".join(choice.key for choice in self.choices) or "dense"

    @property
    def words(self) -> str:
        """What is done, in a few words."""
        return "; ".join(each.proposal.words for each in self.choices) or "nothing but further training"

    def of(self, stage: Stage) -> Choice | None:
        """Its choice of a stage."""
        return next((choice for choice in self.choices if choice.proposal.stage == stage), None)

    def recipe(self, epochs: float | None, engine: str, beside: Sequence[Choice] = ()) -> Recipe:
        """The recipe that does it.

        Args:
            epochs: of the run; None: it is applied without training.
            engine: for which the model is made.
            beside: further choices that do nothing to a file: a teacher, a learning rate.
        """
        run: dict[str, Any] = {"engine": engine} if epochs is None else {"epochs": _rounded(epochs), "engine": engine}
        parts = {NAMES[each.proposal.stage]: each for each in (*self.choices, *beside)}
        modifiers = {name: self._fields(each, epochs) for name, each in parts.items()}
        return Recipe.load(
            {"recipe": 1, "name": "recommended", "description": self.words, "run": run, "modifiers": modifiers}
        )

    def _fields(self, choice: Choice, epochs: float | None) -> dict[str, Any]:
        proposal = choice.proposal
        if epochs is None:
            return {"type": choice.type, **proposal.fields}
        first, last = (0.0, 1.0) if proposal.whole else self._window(proposal.stage)
        begin, end = first * epochs, last * epochs
        length = end - begin
        return {
            "type": choice.type,
            **({} if first == 0 else {"start": _rounded(begin)}),
            **({} if last == 1 or self._acts_once(choice) else {"end": _rounded(end)}),
            **proposal.fields,
            **{name: _rounded(begin + share * length) for name, share in proposal.times.items()},
            **{name: max(_rounded(share * length), 10**-DECIMALS) for name, share in proposal.durations.items()},
        }

    @staticmethod
    def _acts_once(choice: Choice) -> bool:
        fields = {**choice.proposal.fields, **dict.fromkeys(choice.proposal.durations, 1)}
        return registry().types[choice.type](**fields).acts_once

    def _window(self, stage: Stage) -> tuple[float, float]:
        """Of the run, where a stage begins and ends."""
        if stage == "grid":
            return (GRID if len(self.choices) > 1 else 0.0), 1.0
        earlier = [ENDS[each.proposal.stage] for each in self.choices if self._precedes(each, stage)]
        return max(earlier, default=0.0), ENDS[stage]

    @staticmethod
    def _precedes(other: Choice, stage: Stage) -> bool:
        return other.proposal.stage in ENDS and STAGES.index(other.proposal.stage) < STAGES.index(stage)


def known_choices(trained: bool) -> dict[Stage, list[Choice]]:
    """The proposals of all modifiers that are installed, by stage.

    Args:
        trained: those for a training loop; else those for models without one.
    """
    found: dict[Stage, list[Choice]] = {stage: [] for stage in STAGES}
    for name, kind in registry().types.items():
        for number, proposal in enumerate(kind.proposals):
            if proposal.trained == trained:
                found[proposal.stage].append(Choice(name, number, proposal))
    return found


def mixtures(choices: Iterable[Choice]) -> list[Mixture]:
    """All mixtures of some choices: of each stage one, or none."""
    stages = [[choice for choice in choices if choice.proposal.stage == stage] for stage in STAGES]
    combined = itertools.product(*[[None, *each] for each in stages])
    return [Mixture(tuple(each for each in one if each is not None)) for one in combined]


def _rounded(value: float) -> float | int:
    """Few decimals, and an integer where it is one: as a person would write it."""
    number = round(value, DECIMALS)
    return int(number) if number == int(number) else number
