"""What weights are worth: the first of pruning's three axes, beside structure and scope.

A criterion gives every weight an additive score. Scores are averaged over what is removed together (`combined`), so
one criterion serves every structure, masks and physical removal alike. A criterion is one file: its class, and the
modifier that uses it for masks. Its name is the modifier's type without ``_pruning``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.base import Modifier
from paredown.framework.modifier.registry import registry
from paredown.framework.modifier.training import Training
from paredown.framework.storage.state import PerParameter
from paredown.modifiers.pruning.scoring.gradients import loss_gradients, step_gradients

__all__ = ["Criterion", "CriterionName", "Statistics", "Watched", "criterion_named", "criterion_names"]

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
    """What weights are worth: those of low score are removed first. Stateless; what it gathers is a `Watched`."""

    #: it reads the gradients of optimizer steps, or, before there were any, of the loss on ``data``
    watches: ClassVar[bool] = False
    #: it needs gradients of each weight, so frozen ones cannot be weighed
    by_gradients: ClassVar[bool] = False
    #: scores of all weights are computed together: from data, or from the model's graph
    jointly: ClassVar[bool] = False
    #: it needs ``data`` whenever scores are asked for
    needs_data: ClassVar[bool] = False
    #: it compares whole output channels, and says nothing of a weight's inputs
    outputs_only: ClassVar[bool] = False
    #: scores of different layers compare only in relation to their mean, where channels are removed
    relative: ClassVar[bool] = False
    #: scores order weights as their magnitudes do
    by_magnitude: ClassVar[bool] = False
    #: what was pruned may come back, with the value that it had
    regrows: ClassVar[bool] = False

    def start(self, training: Training, weights: Mapping[str, nn.Parameter]) -> Watched:
        """What is gathered, when the window opens."""
        return Watched()

    def watch(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> None:
        """After an optimizer step, masks applied: take in the gradients that it used."""
        gradients = step_gradients(training.just_stepped(weights)) if self.watches else {}
        if gradients:
            self._take_in(weights, gradients, watched, new=watched.step != training.step)
            watched.step = training.step

    def scores(
        self, training: Training, modifier: Modifier, weights: Mapping[str, nn.Parameter], watched: Watched
    ) -> dict[str, Tensor]:
        """Additive scores in the shapes of the weights, float32 or wider; what it has no opinion on is left out.

        Args:
            training: the run.
            modifier: for whom; its name is told in errors.
            weights: by name; in physical pruning also biases and normalisations' parameters.
            watched: what `start` made and `watch` gathered.

        Raises:
            ScheduleError: gradients or data are missing; the line to add is told.
        """
        self.prepare(training, modifier, weights, watched)
        return self.weigh(training, modifier, weights, watched)

    def prepare(
        self, training: Training, modifier: Modifier, weights: Mapping[str, nn.Parameter], watched: Watched
    ) -> None:
        """Gather gradients from ``data`` where none were seen in training; for all weights before some are scored.

        Raises:
            ScheduleError: there is no data either.
        """
        if self.watches and (not watched.count or (watched.stale and training.clock is None)):
            self._gather(training, modifier, weights, watched)

    def check(self, training: Training, modifier: Modifier) -> None:
        """Raise ScheduleError, before anything is changed, where what it needs was not given."""
        if self.needs_data and training.data is None:
            raise ScheduleError(f"{modifier.name} ({modifier.type}) weighs by data: modify(..., data=loader)")

    def observe(self, weights: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor], watched: Watched) -> None:
        """Take in gradients of the loss by name, of the shapes of the weights; ``watched.count`` were taken before."""
        return

    @abstractmethod
    def weigh(
        self, training: Training, modifier: Modifier, weights: Mapping[str, nn.Parameter], watched: Watched
    ) -> dict[str, Tensor]:
        """The scores, after gradients were gathered; see `scores`."""

    def compensate(self, weights: Mapping[str, nn.Parameter], pruned: Mapping[str, Tensor], watched: Watched) -> None:
        """Change the weights that stay, in place, to make up for those that go (True in ``pruned``), before they do."""
        return

    def renew(self, weights: Mapping[str, nn.Parameter], watched: Watched) -> None:
        """After weights were removed: say if what was gathered is ``stale``."""
        return

    def combined(self, mean: Tensor) -> Tensor:
        """What is compared, from the mean score of a unit (a block, a kernel, a channel)."""
        return mean

    def _gather(
        self, training: Training, modifier: Modifier, weights: Mapping[str, nn.Parameter], watched: Watched
    ) -> None:
        if training.data is None:
            raise ScheduleError(
                f"{modifier.name} weighs by gradients and has seen none yet: give batches, modify(..., data=loader), "
                "or let it remove nothing before a step was made"
            )
        for gradients in loss_gradients(training, modifier, weights):
            self._take_in(weights, gradients, watched)

    def _take_in(
        self,
        weights: Mapping[str, nn.Parameter],
        gradients: Mapping[str, Tensor],
        watched: Watched,
        new: bool = True,
    ) -> None:
        """Observe gradients; of one step several optimizers may give parts, and the first counts."""
        if watched.stale:
            watched.statistics.clear()
            watched.count, watched.stale = 0, False
        self.observe(weights, gradients, watched)
        watched.count += new


def criterion_names() -> list[str]:
    """The names of all criteria that are installed."""
    return [name.removesuffix(SUFFIX) for name, kind in registry().types.items() if _criterion_of(kind) is not None]


def criterion_named(name: str) -> Criterion:
    """The criterion of the modifier ``name`` + ``_pruning``, with its defaults.

    Raises:
        ValueError: there is none; the names that there are are told.
    """
    kind = registry().types.get(name + SUFFIX)
    made = None if kind is None else _criterion_of(kind)
    if made is None:
        raise ValueError(f"{name!r} is no criterion; one of {', '.join(criterion_names())}")
    return made


def _criterion_of(kind: type[Modifier]) -> Criterion | None:
    made = getattr(kind, "default_criterion", None)
    found = None if made is None else made()
    return found if isinstance(found, Criterion) else None


def _known(name: str) -> str:
    criterion_named(name)
    return name


CriterionName = Annotated[str, AfterValidator(_known)]
