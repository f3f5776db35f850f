"""Checks of what a user hands over, before anything of a model is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from paredown.framework.auxiliary.teachers import teachers_in
from paredown.framework.distributed.shards import is_sharded
from paredown.framework.errors import ParedownError, ScheduleError, TargetError
from paredown.framework.model.optimizers import each_of, layers_of, train_any
from paredown.framework.model.targets import unwrap
from paredown.framework.modifier.base import Modifier
from paredown.framework.run.hooks import is_managed
from paredown.framework.run.schedule import Schedule

__all__ = [
    "check_model",
    "check_module",
    "check_one_shot",
    "check_parts",
    "check_scaler",
    "check_teachers",
    "optimizers_in",
    "optimizers_of",
]


def check_model(model: Any) -> None:
    """Refuse what is no module, a TorchScript module, weights in a sparse layout, and a model that is managed already.

    Raises:
        ParedownError: with what to do.
    """
    check_module(model)
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ParedownError(f"{name} has no shape yet (a lazy layer): run the model once on a batch first")
        if parameter.is_meta:
            raise ParedownError(f"{name} is on the meta device and has no values: load or initialise the model first")
        if parameter.layout is not torch.strided:
            raise ParedownError(
                f"{name} is stored as {parameter.layout}, for inference: compress the dense model, and convert it last"
            )
    if isinstance(unwrap(model), torch.jit.ScriptModule):
        raise TargetError("the model is compiled by TorchScript: give the nn.Module that it was made from")
    if is_managed(unwrap(model)):
        raise ParedownError(
            "the model is managed already: let its manager finalize or release it first; where nobody holds that "
            "manager any more (a notebook's cell that is run again), call manager.release(model) and then modify"
        )


def check_module(model: Any) -> None:
    """Raise ParedownError for what is no module."""
    if not isinstance(model, nn.Module):
        raise ParedownError(f"a torch.nn.Module is wanted, not a {type(model).__name__}")


def check_scaler(scaler: Any) -> None:
    """Raise ParedownError for what is no gradient scaler."""
    wanted = ("scale", "step", "update", "is_enabled")
    if scaler is not None and not all(callable(getattr(scaler, name, None)) for name in wanted):
        raise ParedownError(f"grad_scaler: a torch.amp.GradScaler is wanted, not a {type(scaler).__name__}")


def check_teachers(model: nn.Module, teacher: Any, modifiers: Mapping[str, Modifier]) -> None:
    """Refuse teachers for modifiers that do not exist, and one that shares parameters with the student.

    Raises:
        ParedownError: names them.
    """
    by_name = teacher if isinstance(teacher, Mapping) else {}
    unknown = [name for name in by_name if name not in modifiers]
    if unknown:
        raise ParedownError(f"teacher: no modifier is called {unknown[0]!r}; there are {', '.join(modifiers)}")
    own = {id(parameter) for parameter in model.parameters()}
    for given in [one for each in (by_name.values() if by_name else [teacher]) for one in teachers_in(each)]:
        if not isinstance(given, (nn.Module, str, Path)):
            raise ParedownError(f"teacher: a module or a path is wanted, not a {type(given).__name__}")
        if isinstance(given, nn.Module) and any(id(parameter) in own for parameter in given.parameters()):
            raise ParedownError(
                "the teacher shares parameters with the student, and would be put into eval mode and trained with it: "
                "give a copy (copy.deepcopy), or teacher: initial in the recipe"
            )


def check_parts(modifiers: Iterable[Modifier], schedule: Schedule) -> None:
    """Refuse modifiers that need whole parameters, or copy the model, where these are split among processes.

    Raises:
        TargetError: names them.
    """
    split = {id(parameter) for parameter in schedule.run.model.parameters() if is_sharded(parameter)}
    for modifier in modifiers if split else ():
        if modifier.copies_model:
            raise TargetError(
                f"{modifier.name} ({modifier.type}) copies the model while it trains, and its parameters are split "
                "among processes: use DistributedDataParallel, or a teacher that is given, modify(..., teacher=module)"
            )
        claimed = () if modifier.works_on_parts else modifier.claimed(schedule.of(modifier))
        if not any(id(parameter) in split for parameter in claimed):
            continue
        early = "let it start at 0, and call manager.prepare(model) before fully_shard"
        late = "use DistributedDataParallel, or run it in a recipe of its own before the model is split"
        raise TargetError(
            f"{modifier.name} ({modifier.type}) needs whole weights, and these are split among processes: "
            f"{early if modifier.structural else late}"
        )


def optimizers_of(model: nn.Module, given: Any) -> list[Optimizer]:
    """The optimizers themselves, out of wrappers, checked against the model.

    Raises:
        ParedownError: no optimizer, one that evaluates a closure several times a step, or none of the model's
            parameters in it.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ParedownError("the model has no trainable parameter (requires_grad): there is nothing to train")
    optimizers = optimizers_in(given)
    if len({id(one) for one in optimizers}) < len(optimizers):
        raise ParedownError("the same optimizer was given twice")
    if not optimizers:
        raise ParedownError("modify needs an optimizer; without training, use apply")
    if not train_any(optimizers, model):
        raise ParedownError(
            "the optimizer holds none of the model's parameters: build it from model.parameters() of this very model, "
            "after moving and wrapping it"
        )
    return optimizers


def optimizers_in(given: Any) -> list[Optimizer]:
    """The optimizers in what a user gives: one, a list, or wrappers of them."""
    return [_own_optimizer(one) for one in each_of(given)]


def check_one_shot(modifiers: Iterable[Modifier], data: Any) -> None:
    """Refuse what cannot work without training, or without data.

    Raises:
        ScheduleError: names the modifiers.
    """
    modifiers = list(modifiers)
    hungry = [
        f"{modifier.name} ({modifier.type})" for modifier in modifiers if modifier.calibrates or modifier.recalibrates
    ]
    if hungry and data is None:
        raise ScheduleError(f"{', '.join(hungry)} needs batches to calibrate on: apply(model, data=loader)")
    names = [f"{modifier.name} ({modifier.type})" for modifier in modifiers if modifier.needs_training]
    if names:
        raise ScheduleError(
            f"{', '.join(names)} cannot work without training: use modify and a training loop, or take it out "
            f"(override ~modifiers.{names[0].split()[0]})"
        )


def _own_optimizer(given: Any) -> Optimizer:
    optimizer = layers_of(given)[-1]
    if not isinstance(optimizer, Optimizer):
        raise ParedownError(f"a torch.optim.Optimizer is wanted, not a {type(given).__name__}")
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise ParedownError(
            f"{type(optimizer).__name__} inherits from torch.optim.Optimizer and never called its __init__, so its "
            "steps cannot be seen: call super().__init__(params, defaults) there"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ParedownError(
            "LBFGS evaluates the model many times in one step, and its line search would see weights that a modifier "
            "changes in between: use SGD, AdamW or another first-order optimizer"
        )
    if any(type(layer).__name__ == "ZeroRedundancyOptimizer" for layer in layers_of(given)):
        raise ParedownError(
            "ZeroRedundancyOptimizer keeps momenta where they cannot be cleared, and trains only the parameters that "
            "it was built with: use its own optimizer (SGD, AdamW), or fully_shard, which splits momenta too"
        )
    return optimizer
