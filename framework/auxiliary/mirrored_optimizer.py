"""Optimizers that mirror the user's, for parameters which the user's optimizers do not hold."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from paredown.framework.errors import ScheduleError
from paredown.framework.model.targets import named_parameters

__all__ = ["MirroredOptimizer", "mirrored_optimizers"]


@dataclass
class MirroredOptimizer:
    """An optimizer of the class and with the settings of another one, which it follows.

    Attributes:
        optimizer: this one.
        model: the other one.
        groups: for each of our param groups the place of the other's group that it follows.
    """

    optimizer: Optimizer
    model: Optimizer
    groups: Sequence[int]

    def step(self) -> None:
        """A step with the settings that the other one has now (its learning rate may have a schedule)."""
        for own, place in zip(self.optimizer.param_groups, self.groups, strict=True):
            followed = self.model.param_groups[place]
            own.update({key: value for key, value in followed.items() if key != "params"})
        self.optimizer.step()

    def move_state(self) -> None:
        """Bring momenta to the devices and types that their parameters have now."""
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = value.to(parameter.device, parameter.dtype)


def mirrored_optimizers(
    optimizers: Sequence[Optimizer], module: nn.Module, model: nn.Module
) -> list[MirroredOptimizer]:
    """Optimizers for a module's parameters, like those of the model.

    A parameter with the name and shape of one of the model's is treated as that one is, in its group; where the model
    freezes it or no optimizer holds it, it is not trained. All others go with the first group of the first optimizer.

    Raises:
        ScheduleError: a class of optimizer cannot be built from its own settings.
    """
    places = _places(optimizers, model)
    shapes = {name: parameter.shape for name, parameter in named_parameters(model).items()}
    twin = shapes == {name: parameter.shape for name, parameter in named_parameters(module).items()}
    groups: dict[tuple[int, int], list[nn.Parameter]] = {}
    for name, parameter in named_parameters(module).items():
        place = places.get(name) if twin else (0, 0)
        if place is not None and parameter.requires_grad:
            groups.setdefault(place, []).append(parameter)
    return [
        _mirrored(optimizer, {group: members for (which, group), members in groups.items() if which == index})
        for index, optimizer in enumerate(optimizers)
        if any(which == index for which, _ in groups)
    ]


def _places(optimizers: Sequence[Optimizer], model: nn.Module) -> dict[str, tuple[int, int]]:
    names = {id(parameter): name for name, parameter in named_parameters(model).items()}
    return {
        names[id(parameter)]: (which, place)
        for which, optimizer in enumerate(optimizers)
        for place, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
        if id(parameter) in names
    }


def _mirrored(model: Optimizer, groups: Mapping[int, list[nn.Parameter]]) -> MirroredOptimizer:
    """An optimizer of the same class over other parameters."""
    kind: Any = type(model)
    accepted = set(inspect.signature(kind.__init__).parameters)
    settings = {key: value for key, value in model.defaults.items() if key in accepted}
    own = [
        {"params": members, **{key: model.param_groups[place][key] for key in settings}}
        for place, members in groups.items()
    ]
    try:
        return MirroredOptimizer(kind(own, **settings), model, list(groups))
    except (TypeError, ValueError) as error:
        raise ScheduleError(
            f"no second {kind.__name__} can be built from the settings of the loop's one, for what is trained beside "
            f"the model: {error}; use an optimizer of torch.optim"
        ) from error
