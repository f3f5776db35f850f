"""Re-estimating the running statistics of batch-norms on data, after layers before them have changed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paredown.framework.calibration.streaming import InputTaker
from paredown.framework.distributed.processes import mean_of_all
from paredown.framework.model.targets import named_modules
from paredown.framework.model.temporary import evaluating
from paredown.framework.modifier.training import Training

__all__ = ["Statistics", "has_batch_norms", "new_statistics", "set_statistics_"]

#: of a batch-norm, mean and variance
Statistics = dict[str, tuple[Tensor, Tensor]]


def has_batch_norms(model: nn.Module, behind: str | None = None) -> bool:
    """Whether a module, or one of those that are registered behind the module of this name, keeps running statistics
    of batches."""
    names = list(named_modules(model))
    first = 0 if behind is None else names.index(behind)
    return any(name in names[first:] for name in _batch_norms(model))


def new_statistics(training: Training, changed: Iterable[nn.Module], samples: int | None = None) -> Statistics:
    """Mean and variance of what reaches each batch-norm that runs after one of the ``changed`` modules, by name.

    The batch-norms normalize by their batch meanwhile, as in training, so that each sees what it will see once those
    before it are right; the means over the batches are taken. Nothing is changed: see `set_statistics_`.

    Raises:
        ScheduleError: there is no data, or a batch-norm gets a single value per channel.
    """
    norms = _batch_norms(training.model)
    following = _run_after(training, list(changed), norms)
    if not following:
        return {}
    with evaluating(training.model), _starting_anew(list(following.values())):
        for batch in training.data.first(samples):
            training.data.call(batch)
        found = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in following.items()}
    names, means = list(found), mean_of_all([part for pair in found.values() for part in pair])
    return {name: (means[2 * place], means[2 * place + 1]) for place, name in enumerate(names)}


def set_statistics_(model: nn.Module, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Give batch-norms what `new_statistics` found."""
    modules: Mapping[str, Any] = named_modules(model)
    with torch.no_grad():
        for name, (mean, variance) in statistics.items():
            modules[name].running_mean.copy_(mean)
            modules[name].running_var.copy_(variance)


def _batch_norms(model: nn.Module) -> dict[str, Any]:
    return {
        name: module
        for name, module in named_modules(model).items()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def _run_after(training: Training, changed: Sequence[nn.Module], norms: Mapping[str, Any]) -> dict[str, Any]:
    """The batch-norms that are called after one of the ``changed`` modules in a forward of the first batch."""
    begun: list[bool] = []
    after: dict[str, Any] = {}
    links = [(module, InputTaker(lambda _: begun.append(True))) for module in changed]
    links += [(norm, InputTaker(functools.partial(_note, begun, after, name, norm))) for name, norm in norms.items()]
    with training.links.during(links):
        training.data.run(1)
    return after


def _note(begun: Sequence[bool], after: dict[str, Any], name: str, norm: Any, _: Tensor) -> None:
    if begun:
        after[name] = norm


@contextmanager
def _starting_anew(norms: Sequence[Any]) -> Iterator[None]:
    """Batch-norms that forget, and average over the batches; they are as they were afterwards."""
    before = [
        (norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.momentum, norm.training) for norm in norms
    ]
    try:
        for norm in norms:
            norm.running_mean, norm.running_var = norm.running_mean.clone(), norm.running_var.clone()
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        yield
    finally:
        for norm, values in zip(norms, before, strict=True):
            norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.momentum, norm.training = values
