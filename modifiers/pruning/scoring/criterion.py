"""Criteria: what weights are worth, the first of pruning's three axes, beside structure and scope.

A criterion gives every weight an additive score. Scores are averaged over what is removed together (`combined`), so
one criterion serves every structure, masks and physical removal alike. A criterion is one file: its class, and the
modifier that uses it for masks. Its name is the modifier's type without ``_pruning``. How it is used:
`paredown.modifiers.pruning.scoring.scores`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.registry import registry
from paredown.framework.modifier.training import Training
from paredown.framework.storage.state import PerParameter

__all__ = [
    "Criterion",
    "CriterionModifier",
    "CriterionName",
    "Statistics",
    "Watched",
    "criterion_named",
    "criterion_names",
]

SUFFIX = "_pruning"


class Statistics(PerParameter):
    """What a criterion gathers of each parameter. A tensor of the parameter's shape is sliced along when the parameter
    shrinks; one of another shape is dropped and gathered again."""

    handed_on: ClassVar[bool] = False

    def shrink(self, parameter: nn.Parameter, dimension: int, kept: Tensor) -> None:
        if parameter not in self:
            return
        if self[parameter].dim() == parameter.dim():
            super().shrink(parameter, dimension, kept)
        else:
            del self[parameter]


@dataclass
class Watched:
    """What a criterion has gathered.

    Attributes:
        statistics: by parameter; what they are is the criterion's business.
        values: weights as they were when they were pruned, where the criterion may bring them back.
        count: of how many steps or batches.
        step: the optimizer step that was taken in last.
        stale: it was used already, and gives way to what comes next.
        generator: of random numbers.
        partners: by layer, the layer that is read in its place.
    """

    statistics: Statistics = field(default_factory=Statistics)
    values: Statistics = field(default_factory=Statistics)
    count: int = 0
    step: int = -1
    stale: bool = False
    generator: torch.Generator | None = None
    partners: dict[str, str] = field(default_factory=dict)


class Criterion(ABC):
    """What weights are worth: those of low score are removed first. Stateless; what it gathers is a `Watched`.

    A criterion writes `weigh`. ``needs`` is what it goes by where the weights alone are not enough; "gradients" are
    taken in by `observe`. Where a unit's worth is not its mean score, `combined` has it. The other members are
    for special cases.
    """

    needs: ClassVar[Literal["weights", "model", "data", "gradients"]] = "weights"
    """What it goes by: each weight alone; the whole model at once; the model on ``data`` whenever scores are asked for;
    or the gradients of optimizer steps (before there were any: of the loss on ``data``)."""

    @abstractmethod
    def weigh(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> dict[str, Tensor]:
        """Additive scores in the shapes of the weights, float32 or wider; a weight that is left out has no score.

        Args:
            training: the run as the modifier sees it for which weights are scored.
            weights: by name; in physical pruning also biases and normalisations' parameters.
            watched: what was gathered.

        Raises:
            ScheduleError: data is missing; the line to add is part of the message.
        """

    def observe(self, weights: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor], watched: Watched) -> None:
        """Take in gradients of the loss by name, of the shapes of the weights; ``watched.count`` were taken before."""
        return

    def combined(self, mean: Tensor) -> Tensor:
        """What is compared, from the mean score of a unit (a block, a kernel, a channel)."""
        return mean

    # -- special cases -------------------------------------------------------------------------------------------

    #: it compares whole output channels, and has no scores for a weight's inputs
    outputs_only: ClassVar[bool] = False
    #: scores of different layers compare only in relation to their mean, where channels are removed
    relative: ClassVar[bool] = False
    #: scores order weights as their magnitudes do
    by_magnitude: ClassVar[bool] = False
    #: what was pruned may come back, with the value that it had
    regrows: ClassVar[bool] = False

    @property
    def by_gradients(self) -> bool:
        """Whether it needs gradients of each weight, so that frozen ones have no score."""
        return self.needs == "gradients"

    def check(self, training: Training) -> None:
        """Raise ScheduleError, before anything is changed, where what it needs was not given."""
        if self.needs == "data":
            training.data.require("weighs by data")

    def start(self, training: Training, weights: Mapping[str, nn.Parameter]) -> Watched:
        """What is gathered, when the window opens."""
        return Watched()

    def compensate(self, weights: Mapping[str, nn.Parameter], pruned: Mapping[str, Tensor], watched: Watched) -> None:
        """Change the weights that stay, in place, to make up for those that go (True in ``pruned``), before they do."""
        return

    def renew(self, weights: Mapping[str, nn.Parameter], watched: Watched) -> None:
        """After weights were removed: mark what was gathered as ``stale`` if it is."""
        return


class CriterionModifier(Modifier):
    """Base of the modifiers whose criterion others can name: its name is their type without ``_pruning``."""

    @classmethod
    @abstractmethod
    def default_criterion(cls) -> Criterion:
        """The criterion with its defaults."""


def criterion_names() -> list[str]:
    """The names of all criteria that are installed."""
    return [name.removesuffix(SUFFIX) for name, kind in registry().types.items() if _criterion_of(kind) is not None]


def criterion_named(name: str) -> Criterion:
    """The criterion of the modifier ``name`` + ``_pruning``, with its defaults.

    Raises:
        ValueError: there is none; the message has the names that exist.
    """
    kind = registry().types.get(name + SUFFIX)
    made = None if kind is None else _criterion_of(kind)
    if made is None:
        raise ValueError(f"{name!r} is no criterion; one of {', '.join(criterion_names())}")
    return made


def _criterion_of(kind: type[Modifier]) -> Criterion | None:
    return kind.default_criterion() if issubclass(kind, CriterionModifier) else None


def _known(name: str) -> str:
    criterion_named(name)
    return name


CriterionName = Annotated[str, AfterValidator(_known)]
