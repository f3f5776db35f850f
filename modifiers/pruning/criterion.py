"""What weights are worth: the first of pruning's three axes, beside structure and scope.

A criterion gives every weight an additive score. Scores are averaged over what is removed together (`combined`), so
one criterion serves every structure, masks and physical removal alike. A criterion is one file: its class, and the
modifier that uses it for masks. Its name is the modifier's type without ``_pruning``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from paredown.framework.modifier import Modifier
from paredown.framework.registry import registry
from paredown.framework.state import PerParameter
from paredown.framework.training import Training

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
    """What a criterion has gathered: statistics by parameter, of how many steps, and its random generator."""

    statistics: Statistics = field(default_factory=Statistics)
    count: int = 0
    generator: torch.Generator | None = None


class Criterion:
    """What weights are worth: those of low score are removed first. Stateless; what it gathers is a `Watched`."""

    #: it reads gradients after every optimizer step, and knows nothing before the first one unless there is ``data``
    watches: ClassVar[bool] = False
    #: it needs batches of ``data`` whenever scores are asked for
    needs_data: ClassVar[bool] = False
    #: it compares whole output channels, and says nothing of a weight's inputs
    outputs_only: ClassVar[bool] = False

    def start(self, training: Training, weights: Mapping[str, nn.Parameter]) -> Watched:
        """What is gathered, when the window opens."""
        return Watched()

    def watch(self, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> None:
        """After an optimizer step, with the gradients that it used still there; weights are those before or after."""

    def scores(
        self, training: Training, modifier: Modifier, weights: Mapping[str, nn.Parameter], watched: Watched
    ) -> dict[str, Tensor]:
        """Additive scores in the shapes of the weights, in float32 or wider; what it has no opinion on is left out.

        Args:
            training: the run.
            modifier: for whom; its name is told in errors.
            weights: by name; in physical pruning also biases and normalisations' parameters.
            watched: what `start` made and `watch` gathered.

        Raises:
            TargetError: a weight is NaN; it is named.
            ScheduleError: gradients or data are missing; the line to add is told.
        """
        raise NotImplementedError

    def combined(self, mean: Tensor) -> Tensor:
        """What is compared, from the mean score of a unit (a block, a kernel, a channel)."""
        return mean


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


def _criterion_of(kind: type[Modifier]) -> Any:
    made = getattr(kind, "default_criterion", None)
    return None if made is None else made()


def _known(name: str) -> str:
    criterion_named(name)
    return name


CriterionName = Annotated[str, AfterValidator(_known)]
