"""Batch-norms that use their running statistics in training mode too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paredown.framework.model.links import Link, base_class
from paredown.framework.modifier.training import Training

__all__ = ["FrozenStatistics", "freeze_statistics"]


class FrozenStatistics(Link):
    """Around a batch-norm: the running statistics are used in training mode too, and stay as they are."""

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if not module.training:
            return call(module, *args, **kwargs)
        if base_class(module).forward is _BatchNorm.forward:
            return _normalised(module, *args, **kwargs)
        module.training = False  # a subclass may do more, such as an activation
        try:
            return call(module, *args, **kwargs)
        finally:
            module.training = True


def freeze_statistics(training: Training, modules: Iterable[nn.Module] | None = None) -> None:
    """Freeze the statistics of batch-norms that have running ones: of these modules, or of the whole model."""
    for module in training.model.modules() if modules is None else modules:
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            training.links.add(module, FrozenStatistics())


def _normalised(module: Any, input: Tensor) -> Tensor:
    return nn.functional.batch_norm(
        input, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps
    )
