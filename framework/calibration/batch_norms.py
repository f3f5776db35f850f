"""Re-estimating the running statistics of batch-norms on data, after layers before them have changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paredown.framework.distributed.processes import mean_of_all
from paredown.framework.errors import TargetError
from paredown.framework.model.links import Link
from paredown.framework.model.targets import named_modules
from paredown.framework.model.temporary import evaluating
from paredown.framework.modifier.training import Training

__all__ = [
    "Statistics",
    "batch_norms_of",
    "has_batch_norms",
    "mean_statistics",
    "new_statistics",
    "recalibrate_",
    "set_statistics_",
]

#: of a batch-norm, mean and variance
Statistics = dict[str, tuple[Tensor, Tensor]]


def has_batch_norms(model: nn.Module, behind: str | None = None) -> bool:
    """Whether a module, or one of those that are registered behind the module of this name, keeps running statistics
    of batches."""
    names = list(named_modules(model))
    first = 0 if behind is None else names.index(behind)
    return any(name in names[first:] for name in batch_norms_of(model))


def batch_norms_of(model: nn.Module) -> dict[str, Any]:
    """The batch-norms that keep running statistics, by name."""
    return {
        name: module
        for name, module in named_modules(model).items()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def recalibrate_(
    training: Training,
    changed: Iterable[nn.Module] | None = None,
    samples: int | None = None,
    leave: Collection[str] = (),
) -> Sequence[str]:
    """Estimate the statistics of batch-norms anew on ``data``, in the model as it is, and give their names.

    Args:
        training: with data.
        changed: those that run after one of these modules; None: all.
        samples: how much of the data is used; None: all.
        leave: names of batch-norms that keep theirs.

    Raises:
        ScheduleError: there is no data, or a batch-norm gets a single value per channel. Nothing is changed then.
        TargetError: what reaches a batch-norm is not finite. Nothing is changed then.
    """
    statistics = new_statistics(training, changed, samples, leave)
    for name, values in statistics.items():
        if not all(bool(each.isfinite().all()) for each in values):
            raise TargetError(
                f"{training.name}: what reaches {name} is not finite on data (NaN or infinity): its statistics cannot "
                "be estimated anew; look at the data, or set recalibrate_batch_norm: false"
            )
    set_statistics_(training.model, statistics)
    return list(statistics)


def new_statistics(
    training: Training,
    changed: Iterable[nn.Module] | None = None,
    samples: int | None = None,
    leave: Collection[str] = (),
) -> Statistics:
    """Mean and variance of what reaches each batch-norm, by name; see `recalibrate_` for the arguments.

    The batch-norms normalize by their batch meanwhile, as in training, so that each sees what it will see once those
    before it are right; the means over the batches are taken. Nothing is changed: see `set_statistics_`.

    Raises:
        ScheduleError: there is no data, or a batch-norm gets a single value per channel.
    """
    norms = batch_norms_of(training.model)
    following = norms if changed is None else _run_after(training, list(changed), norms)
    following = {name: norm for name, norm in following.items() if name not in leave}
    if not following:
        return {}
    with evaluating(training.model), _starting_anew(list(following.values())):
        for batch in training.data.first(samples):
            training.data.call(batch)
        ran = {name: norm for name, norm in following.items() if int(norm.num_batches_tracked)}
        found = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in ran.items()}
    return mean_statistics(found)


def mean_statistics(statistics: Statistics) -> Statistics:
    """The means over all processes."""
    means = mean_of_all([part for pair in statistics.values() for part in pair])
    return {name: (means[2 * place], means[2 * place + 1]) for place, name in enumerate(statistics)}


def set_statistics_(model: nn.Module, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Give batch-norms what `new_statistics` found."""
    modules: Mapping[str, Any] = named_modules(model)
    with torch.no_grad():
        for name, (mean, variance) in statistics.items():
            modules[name].running_mean.copy_(mean)
            modules[name].running_var.copy_(variance)


def _run_after(training: Training, changed: Sequence[nn.Module], norms: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch-norms that are called after one of the ``changed`` modules in a forward of the first batch; all where
    one of these is never called, its weights being read by another."""
    calls: list[nn.Module] = []
    watched = [*changed, *(norm for norm in norms.values() if not any(norm is each for each in changed))]
    with training.links.during((module, _CallNoting(calls)) for module in watched):
        training.data.run(1)
    called = {id(module): place for place, module in reversed(list(enumerate(calls)))}
    if any(id(module) not in called for module in changed):
        return norms
    first = min(called[id(module)] for module in changed)
    last = {id(module): place for place, module in enumerate(calls)}
    return {name: norm for name, norm in norms.items() if last.get(id(norm), -1) > first}


class _CallNoting(Link):
    """Writes down when a module is called."""

    def __init__(self, calls: list[nn.Module]) -> None:
        self.calls = calls

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(module)
        return call(module, *args, **kwargs)


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
