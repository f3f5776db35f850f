"""`exponential_moving_average`: the weights that are evaluated, and that remain, are averages over the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from paredown.framework.distributed.shards import own_part
from paredown.framework.model.links import Link
from paredown.framework.model.targets import named_parameters
from paredown.framework.modifier.base import Foreseen, Modifier
from paredown.framework.modifier.fields import Share
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.framework.storage.state import PerParameter, containers


class Means(PerParameter):
    """Averages of parameters; no other modifier takes them over."""

    handed_on = False


@dataclass
class Averages:
    """Running averages.

    Attributes:
        weights: of the parameters, in their shapes.
        buffers: of the floating-point buffers (statistics of batch-norms), by name.
        count: how often they were updated.
    """

    weights: Means = field(default_factory=Means)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0


class ExponentialMovingAverage(Modifier):
    """An exponential moving average of the weights is what is evaluated, and what the model has in the end (Polyak &
    Juditsky, 1992, doi:10.1137/0330046; Tarvainen & Valpola, 2017, arXiv:1703.01780, section 2).

    After each step, average = d x average + (1 - d) x weight, with d = min(``decay``, (1 + n) / (10 + n)) at the n-th
    update, so that the first steps are soon forgotten. Statistics of batch-norms are averaged likewise. The average
    follows what the recipe does: it is zero where a modifier holds a weight at zero, shrinks with its layer, and starts
    anew where a layer was replaced.

    While training, the model in eval mode under ``torch.no_grad()`` computes with the averages; ``state_dict()`` gives
    the weights that are trained. After the last update the weights are the averages.
    """

    example: ClassVar = {"decay": 0.99}
    claims: ClassVar = frozenset({"average"})
    state_type: ClassVar = Averages
    needs_training: ClassVar = True

    type: Literal["exponential_moving_average"] = "exponential_moving_average"
    decay: Share = 0.999
    """The most that an average keeps of itself in an update."""
    every: Time = Time.parse("1 step")
    """Distance between updates. Default: every optimizer step."""

    @property
    def update_interval(self) -> Time | None:
        return self.every

    @property
    def permanent(self) -> bool:
        return True

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return list(training.model.parameters())

    def foresee(self, training: Training) -> Sequence[Foreseen]:
        return [Foreseen("(weights)", f"averaged, {self.decay:g} of the average kept in each update")]

    def on_start(self, training: Training) -> Averages:
        state = Averages()
        _begin_missing(training.model, state)
        return state

    def attach(self, training: Training, state: Averages) -> None:
        if not training.ended:
            training.links.add(training.model, _Averaged(training.model, state))

    def on_update(self, training: Training, state: Averages) -> None:
        if training.step:
            _begin_missing(training.model, state)
            state.count += 1
            _update_(training.model, state, min(self.decay, (1 + state.count) / (10 + state.count)))
            _zero_what_is_zero_(_held_by_others(training, state), state)

    def on_end(self, training: Training, state: Averages) -> None:
        _write_(training.model, state)
        training.links.remove()
        state.weights, state.buffers = Means(), {}

    def on_finalize(self, training: Training, state: Averages) -> None:
        _write_(training.model, state)

    def detach(self, training: Training, state: Averages) -> None:
        training.links.remove()


class _Averaged(Link):
    """Around the model: evaluated without gradients, it computes with the averages."""

    def __init__(self, model: nn.Module, state: Averages) -> None:
        self.state = state
        self.inside = _Calling(model)

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if module.training or torch.is_grad_enabled():
            return call(module, *args, **kwargs)
        tensors = {f"inner.{name}": tensor for name, tensor in _by_name(module, self.state).items()}
        return torch.func.functional_call(self.inside, tensors, (call, *args), kwargs)


class _Calling(nn.Module):
    """Calls what it is given on a module, whose tensors `torch.func.functional_call` replaces meanwhile."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return call(self.inner, *args, **kwargs)


def _by_name(model: nn.Module, state: Averages) -> dict[str, Tensor]:
    """The averages by the names of what they are averages of."""
    parameters = named_parameters(model).items()
    weights = {name: state.weights[each] for name, each in parameters if each in state.weights}
    return {**weights, **{name: mean for name, mean in state.buffers.items() if name in _buffers(model)}}


def _buffers(model: nn.Module) -> Mapping[str, Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}


def _begin_missing(model: nn.Module, state: Averages) -> None:
    """Start averages of what has none of its shape, and forget those of what is gone."""
    parameters = [each for each in model.parameters() if each.is_floating_point()]
    for parameter in parameters:
        if parameter not in state.weights or state.weights[parameter].shape != own_part(parameter).shape:
            state.weights[parameter] = own_part(parameter).clone()
    present = {id(parameter) for parameter in parameters}
    for gone in [parameter for parameter in state.weights if id(parameter) not in present]:
        del state.weights[gone]
    buffers = _buffers(model)
    kept = {name: mean for name, mean in state.buffers.items() if name in buffers and mean.shape == buffers[name].shape}
    state.buffers = {name: kept.get(name, buffer.detach().clone()) for name, buffer in buffers.items()}


@torch.no_grad()
def _update_(model: nn.Module, state: Averages, decay: float) -> None:
    buffers = _buffers(model)
    means = [*state.weights.values(), *state.buffers.values()]
    now = [*map(own_part, state.weights), *(buffers[name] for name in state.buffers)]
    for place, (mean, value) in enumerate(zip(means, now, strict=True)):
        if mean.dtype != value.dtype or mean.device != value.device:  # moved or cast since
            now[place] = value.to(mean)
    torch._foreach_lerp_(means, now, 1 - decay)


def _held_by_others(training: Training, state: Averages) -> Iterator[nn.Parameter]:
    """The parameters that another modifier has state of: it may hold some of their values at zero."""
    others = (each for each in training.states.values() if each is not state)
    held = {id(parameter) for each in others for container in containers(each) for parameter in container}
    return (parameter for parameter in state.weights if id(parameter) in held)


@torch.no_grad()
def _zero_what_is_zero_(parameters: Iterator[nn.Parameter], state: Averages) -> None:
    for parameter in parameters:
        state.weights[parameter].masked_fill_(own_part(parameter) == 0, 0)


@torch.no_grad()
def _write_(model: nn.Module, state: Averages) -> None:
    """Put the averages into the model."""
    for parameter, mean in state.weights.items():
        own_part(parameter).copy_(mean)
    for name, mean in state.buffers.items():
        model.get_buffer(name).copy_(mean)
