"""What is checked before anything of a model is changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from paredown.framework.errors import ParedownError, ScheduleError, TargetError
from paredown.framework.loop_hooks import is_managed
from paredown.framework.modifier import Modifier
from paredown.framework.targets import unwrap

__all__ = ["check_model", "check_one_shot", "optimizers_in", "optimizers_of"]


def check_model(model: Any) -> None:
    """Refuse what is no module, a TorchScript module, and a model that a manager already has.

    Raises:
        ParedownError: with what to do.
    """
    if not isinstance(model, nn.Module):
        raise ParedownError(f"a torch.nn.Module is wanted, not a {type(model).__name__}")
    if isinstance(unwrap(model), torch.jit.ScriptModule):
        raise TargetError("the model is compiled by TorchScript: give the nn.Module that it was made from")
    if is_managed(unwrap(model)):
        raise ParedownError("the model is managed already: call finalize() or release() of that manager first")


def optimizers_of(model: nn.Module, given: Any) -> list[Optimizer]:
    """The optimizers themselves, out of wrappers, checked against the model.

    Raises:
        ParedownError: no optimizer, one that evaluates a closure several times a step, or none of the model's
            parameters in it.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ParedownError("the model has no trainable parameter (requires_grad): there is nothing to train")
    optimizers = optimizers_in(given)
    if not optimizers:
        raise ParedownError("modify needs an optimizer; without training, use apply")
    held = {id(parameter) for one in optimizers for group in one.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in model.parameters()):
        raise ParedownError(
            "the optimizer holds none of the model's parameters: build it from model.parameters() of this very model, "
            "after moving and wrapping it"
        )
    return optimizers


def optimizers_in(given: Any) -> list[Optimizer]:
    """The optimizers in what a user gives: one, a list, or wrappers of them."""
    return [_own_optimizer(one) for one in (given if isinstance(given, (list, tuple)) else [given])]


def check_one_shot(modifiers: Iterable[Modifier], data: Any) -> None:
    """Refuse what cannot work without training, or without data.

    Raises:
        ScheduleError: names the modifiers.
    """
    modifiers = list(modifiers)
    hungry = [f"{modifier.name} ({modifier.type})" for modifier in modifiers if modifier.calibrates]
    if hungry and data is None:
        raise ScheduleError(f"{', '.join(hungry)} needs batches to calibrate on: apply(model, data=loader)")
    names = [f"{modifier.name} ({modifier.type})" for modifier in modifiers if modifier.needs_training]
    if names:
        raise ScheduleError(
            f"{', '.join(names)} cannot work without training: use modify and a training loop, or take it out "
            f"(override ~modifiers.{names[0].split()[0]})"
        )


def _own_optimizer(given: Any) -> Optimizer:
    optimizer = given
    while not isinstance(optimizer, Optimizer) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    inner = getattr(optimizer, "optimizer", None)  # a wrapper that inherits from Optimizer, as Accelerate's
    optimizer = inner if isinstance(inner, Optimizer) else optimizer
    if not isinstance(optimizer, Optimizer):
        raise ParedownError(f"a torch.optim.Optimizer is wanted, not a {type(given).__name__}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ParedownError(
            "LBFGS evaluates the model many times in one step, and its line search would see weights that a modifier "
            "changes in between: use SGD, AdamW or another first-order optimizer"
        )
    return optimizer
