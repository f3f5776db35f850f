"""How a criterion is used: gradients gathered for it, and its scores."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.scoring.criterion import Criterion, Watched
from paredown.modifiers.pruning.scoring.gradients import loss_gradients, step_gradients

__all__ = ["gather", "scores_now", "scores_of", "watch"]


def scores_of(
    criterion: Criterion, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched
) -> dict[str, Tensor]:
    """A criterion's scores of weights, by name; missing gradients are gathered first.

    Raises:
        ScheduleError: gradients or data are missing; the line to add is part of the message.
    """
    gather(criterion, training, weights, watched)
    return criterion.weigh(training, weights, watched)


def scores_now(criterion: Criterion, training: Training, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """A criterion's scores where nothing was watched before. Raises ScheduleError as `scores_of` does."""
    return scores_of(criterion, training, weights, criterion.start(training, weights))


def watch(criterion: Criterion, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> None:
    """After an optimizer step, masks applied: let a criterion of gradients take in those that the step used."""
    gradients = step_gradients(training.just_stepped(weights)) if criterion.needs == "gradients" else {}
    if gradients:
        _take_in(criterion, weights, gradients, watched, new=watched.step != training.step)
        watched.step = training.step


def gather(criterion: Criterion, training: Training, weights: Mapping[str, nn.Parameter], watched: Watched) -> None:
    """Where no gradients were seen in training, take those of the loss on ``data``.

    Args:
        criterion: of another kind than "gradients", it needs none.
        weights: all of them, before some are scored.

    Raises:
        ScheduleError: there is no data either.
    """
    seen = watched.count and not (watched.stale and training.clock is None)
    if criterion.needs != "gradients" or seen:
        return
    if not training.data.available:
        raise ScheduleError(
            f"{training.name} weighs by gradients and has seen none yet: give batches, modify(..., data=loader), "
            "or let it remove nothing before a step was made"
        )
    for gradients in loss_gradients(training, weights):
        _take_in(criterion, weights, gradients, watched)


def _take_in(
    criterion: Criterion,
    weights: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor],
    watched: Watched,
    new: bool = True,
) -> None:
    """Observe gradients; of one step several optimizers may give parts, and the first counts."""
    if watched.stale:
        watched.statistics.clear()
        watched.count, watched.stale = 0, False
    criterion.observe(weights, gradients, watched)
    watched.count += new
