"""How much the error of each weight weighs, from the inputs of its layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from paredown.framework.calibration.second_moments import WITH_COLUMNS, mean_squares
from paredown.framework.calibration.streaming import stream
from paredown.framework.model.batches import samples_in
from paredown.framework.model.weights import WeightLayout
from paredown.framework.modifier.training import Training

__all__ = ["importance_of", "leaning_to_the_mean"]

#: so many samples with the mean moment are added to those that were seen
PRIOR = 32


def importance_of(training: Training, modules: Mapping[str, nn.Module], samples: int | None) -> dict[str, Tensor]:
    """By layer the second moments of the inputs that its weights are multiplied by, broadcasting against the weight.

    A weight's error e changes the output by e x; its mean square is e^2 E[x^2]. For Linear, Conv1D, Conv1d and Conv2d
    layers that the data reaches.

    Args:
        training: with data.
        modules: layers by name.
        samples: how much of the data is used; None: all.
    """
    chosen = {name: module for name, module in modules.items() if isinstance(module, WITH_COLUMNS)}
    seen = sum(samples_in(batch) for batch in training.data.first(samples))
    found = {}
    for unit in stream(training, list(chosen), samples):
        for name, squares in mean_squares(training, unit).items():
            found[name] = _of_weights(leaning_to_the_mean(squares, seen), chosen[name])
    return found


def leaning_to_the_mean(squares: Tensor, samples: int) -> Tensor:
    """Second moments as if 32 more samples had had their mean: those of few samples are mostly chance.

    Args:
        squares: of each input, any shape.
        samples: of how many they are the mean.
    """
    return (squares * samples + squares.mean() * PRIOR) / (samples + PRIOR)


def _of_weights(squares: Tensor, module: nn.Module) -> Tensor:
    """(groups, n), n weights an output channel, for the weight itself."""
    layout = WeightLayout.of(module)
    rows = layout.rows(module.get_parameter("weight").detach())
    each = squares.repeat_interleave(rows.shape[0] // len(squares), 0)
    return layout.kept(each.reshape(rows.shape))
