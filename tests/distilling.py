"""A student and its teacher, a manager that distils, and gradients beside an explicit sum of losses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from sample_models import batches, conv_net, mlp, recipe_of
from torch import Tensor, nn
from torch.nn import functional as F

from paredown import Recipe, ScheduledManager

Explicit = Callable[[nn.Module, Tensor, Tensor], Tensor]


def manager_of(kind: str, epochs: float = 4, **fields: Any) -> ScheduledManager:
    return ScheduledManager(Recipe.load(recipe_of(epochs, distill={"type": kind, **fields})))


def sgd(model: nn.Module, rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), rate, momentum=0.9)


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def perceptrons() -> tuple[nn.Module, nn.Module, list[tuple[Tensor, Tensor]]]:
    """A student, a wider teacher, and data, in float64."""
    data = [(x.double(), y) for x, y in batches()]
    return mlp(seed=5).double(), mlp(width=48, seed=0).double(), data


def convolutionals() -> tuple[nn.Module, nn.Module, list[tuple[Tensor, Tensor]]]:
    data = [(x.double(), y) for x, y in batches(image=True)]
    return conv_net(5).double(), conv_net(0, channels=12).double(), data


def assert_gradient_is(
    manager: ScheduledManager,
    models: tuple[nn.Module, nn.Module, list[tuple[Tensor, Tensor]]],
    explicit: Explicit,
    **modify: Any,
) -> None:
    """The gradient through the manager is that of ``explicit(student, x, y)``, the whole loss written out; in float64,
    by all three ways to the loss."""
    student, teacher, data = models
    manager.modify(student, sgd(student), 10, teacher=teacher, **modify)
    criterion = manager.wrap_criterion(F.cross_entropy)
    for way, (x, y) in zip(("automatic", "loss", "criterion"), data, strict=False):
        reference = copy.deepcopy(student)
        reference.zero_grad()
        explicit(reference, x, y).backward()
        student.zero_grad()
        loss = criterion(student(x), y) if way == "criterion" else F.cross_entropy(student(x), y)
        (manager.loss(loss) if way == "loss" else loss).backward()
        manager.run.losses.link.reset()
        assert (gradient(student) - gradient(reference)).abs().max() < 1e-12, way


def captured(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """What a layer gives, by a hook."""
    found: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: found.append(output))
    model(x)
    handle.remove()
    return found[0]
