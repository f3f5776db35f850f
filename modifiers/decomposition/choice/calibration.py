"""Activation-aware factors: those that keep most of a layer's outputs on calibration data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.calibration.second_moments import damped_moments, input_columns, refuse_not_finite_inputs
from paredown.framework.distributed.processes import sum_of_all
from paredown.framework.model.links import Link
from paredown.framework.modifier.training import Training
from paredown.modifiers.decomposition.choice.sites import Site
from paredown.modifiers.decomposition.forms.base import Ranks, StagedForm
from paredown.modifiers.decomposition.forms.factorization import wide
from paredown.modifiers.decomposition.forms.matrix_forms import ChannelForm

__all__ = ["calibrated_factors"]

#: fewer vectors than this make poor statistics
ENOUGH = 256
RIDGE = 1e-3


def calibrated_factors(
    training: Training, sites: Mapping[str, Site], ranks: Mapping[str, Ranks], samples: int | None
) -> dict[str, list[Tensor]]:
    """Factors of these ranks that keep what each layer gives out on ``data``, as it is given its inputs now.

    A product of matrices that covers a layer's outputs has an optimum in closed form: `response_factors`. For other
    forms the input channels are whitened (multiplied by the root of their second moments) before the weights are
    decomposed, and the last stage is chosen again by least squares on the responses.

    Raises:
        ScheduleError: there is no data, or it leads to NaN or infinity; names the layers.
    """
    closed = {name for name, site in sites.items() if isinstance(site.form, ChannelForm)}
    moments = _moments(training, sites, closed, samples)
    factors = {name: _factors(site, ranks[name], moments.get(name)) for name, site in sites.items()}
    open_ended = {name: site for name, site in sites.items() if name not in closed and _can_be_fitted(site)}
    return {**factors, **_refitted(training, open_ended, factors, samples)}


def _moments(
    training: Training, sites: Mapping[str, Site], closed: Iterable[str], samples: int | None
) -> dict[str, Tensor]:
    """Second moments of the responses where the optimum is closed, else of the input channels."""
    sums = {name: _Products() for name in sites}
    closed = set(closed)

    def take(name: str, x: Tensor, y: Tensor) -> None:
        columns = _outputs(sites[name], y) if name in closed else _inputs(sites[name], x)
        sums[name].add(columns, columns)

    _run(training, sites, take, samples)
    found = {name: products.mean() for name, products in sums.items() if products.count}
    refuse_not_finite_inputs(training.name, found)
    few = [name for name, products in sums.items() if products.count < ENOUGH]
    if few:
        warnings.warn(
            f"{training.name}: data gave fewer than {ENOUGH} vectors to {', '.join(few)}: too few to decompose for",
            stacklevel=2,
        )
    return found


def _factors(site: Site, ranks: Ranks, moments: Tensor | None) -> list[Tensor]:
    """Those of the weight alone where no data came by."""
    if moments is None:
        return site.form.factors(site.tensor, ranks)
    if isinstance(site.form, ChannelForm):
        return site.form.response_factors(site.tensor, ranks, moments)
    return _whitened_factors(site, ranks, moments)


def _whitened_factors(site: Site, ranks: Ranks, moments: Tensor) -> list[Tensor]:
    """Factors of the weight whose error is small in what the input channels carry."""
    root, inverse = _roots(moments)
    whitened = torch.einsum("goip,gij->gojp", wide(site.tensor).to(root.dtype), root)
    first, *rest = site.form.factors(whitened, ranks)
    dtype = site.tensor.dtype
    return [torch.einsum("goip,gij->gojp", first, inverse).to(dtype), *(each.to(dtype) for each in rest)]


def _roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric root of damped second moments, and its inverse, float64."""
    damped = _damped(moments)
    values, vectors = torch.linalg.eigh(damped)
    root = values.clamp_min(torch.finfo(torch.float64).tiny).sqrt()[:, None, :]
    return (vectors * root) @ vectors.mT, (vectors / root) @ vectors.mT


def _damped(moments: Tensor) -> Tensor:
    """Positive definite second moments of each group, float64."""
    return torch.stack([damped_moments(each, RIDGE) for each in moments.double()])


def _can_be_fitted(site: Site) -> bool:
    """Whether the last stage's inputs can be told apart: it is 1 x 1, or a convolution of one or two axes."""
    if not isinstance(site.form, StagedForm):
        return False
    kernel = site.form.geometry.kernel
    return not site.form.axes[-1] or (len(kernel.size) < 3 and not kernel.transposed)


def _refitted(
    training: Training,
    sites: Mapping[str, Site],
    factors: Mapping[str, list[Tensor]],
    samples: int | None,
) -> dict[str, list[Tensor]]:
    """Factors whose last one gives the responses with the least mean squared error, the others being as they are."""
    if not sites:
        return {}
    stages: dict[str, Any] = {name: site.form.module(factors[name], None).eval() for name, site in sites.items()}
    own, cross = {name: _Products() for name in sites}, {name: _Products() for name in sites}

    def take(name: str, x: Tensor, y: Tensor) -> None:
        columns = _last_inputs(sites[name], stages[name], x)
        own[name].add(columns, columns)
        cross[name].add(_outputs(sites[name], y), columns)

    _run(training, sites, take, samples)
    fitted = {}
    for name in sites:
        if own[name].count:
            *others, last = factors[name]
            fitted[name] = [*others, _least_squares(own[name].mean(), cross[name].mean(), last)]
    return fitted


def _least_squares(own: Tensor, cross: Tensor, last: Tensor) -> Tensor:
    """The weight (groups, out, in, positions) nearest to the responses, and to ``last`` where they do not decide."""
    damped, start = _damped(own), last.double().flatten(2)
    solved: Tensor = torch.linalg.solve(damped, (cross.double() + start @ (damped - own.double())).mT).mT
    return solved.reshape(last.shape).to(last.dtype)


def _last_inputs(site: Site, stages: Any, x: Tensor) -> Tensor:
    """What the last stage's weight is multiplied by, (groups, in x positions, vectors)."""
    inner = stages[:-1](x)
    if isinstance(site.form, StagedForm) and site.form.axes[-1]:
        return input_columns(stages[-1], inner)
    return _by_group(inner, site.form.geometry.groups, _channel_axis(site, inner))


def _inputs(site: Site, x: Tensor) -> Tensor:
    """(groups, in, vectors)."""
    return _by_group(x, site.form.geometry.groups, _channel_axis(site, x))


def _outputs(site: Site, y: Tensor) -> Tensor:
    """What the weight alone gives, (groups, out, vectors)."""
    axis, bias = _channel_axis(site, y), site.bias
    if bias is not None:
        y = y - bias.detach().reshape([-1 if place == axis else 1 for place in range(y.dim())])
    return _by_group(y, site.form.geometry.groups, axis)


def _channel_axis(site: Site, tensor: Tensor) -> int:
    if site.form.geometry.kind != "convolution":
        return tensor.dim() - 1
    return tensor.dim() - len(site.form.geometry.axes) - 1


def _by_group(tensor: Tensor, groups: int, axis: int) -> Tensor:
    channels = wide(tensor.detach()).movedim(axis, 0)
    return channels.reshape(groups, channels.shape[0] // groups, -1)


class _Products:
    """The mean of a b^T over vectors a and b, over all processes."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, a: Tensor, b: Tensor) -> None:
        """Of (groups, n, vectors) and (groups, m, vectors)."""
        product = a @ b.mT
        self.total = product if self.total is None else self.total.add_(product)
        self.count += a.shape[2]

    def mean(self) -> Tensor:
        assert self.total is not None
        count = sum_of_all(torch.tensor(float(self.count), device=self.total.device))
        return sum_of_all(self.total) / count


@dataclass(eq=False)
class _Observer(Link):
    """Hands a layer's first input and its output on."""

    take: Callable[[Tensor, Tensor], None]

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        result = call(module, *args, **kwargs)
        self.take(args[0] if args else next(iter(kwargs.values())), result)
        return result


def _run(
    training: Training,
    sites: Mapping[str, Site],
    take: Callable[[str, Tensor, Tensor], None],
    samples: int | None,
) -> None:
    """Run the model on the data, and hand each layer's name, input and output to ``take``."""
    observers = [(site.module, _Observer(partial(take, name))) for name, site in sites.items()]
    with training.links.during(observers):
        training.data.run(samples)
