"""Modules beside the model that a run needs and that are no part of it: adapters, exits, peers, averaged copies.

They are saved with the run. Those that are trained have optimizers like the user's, which step when the user's does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from paredown.framework.auxiliary.mirrored_optimizer import MirroredOptimizer, mirrored_optimizers
from paredown.framework.distributed.processes import in_one_process, mean_of_all
from paredown.framework.errors import CheckpointError

__all__ = ["AuxiliaryModules", "OwnModules", "seeded"]

M = TypeVar("M", bound=nn.Module)


class AuxiliaryModules:
    """The auxiliary modules of one run, each by its owner and name.

    Args:
        optimizers: those of the user.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = optimizers
        self._modules: dict[str, nn.Module] = {}
        self._mirrored: dict[str, list[MirroredOptimizer]] = {}
        self._saved: dict[str, Any] = {}

    def add(self, owner: str, name: str, module: nn.Module, trained_like: nn.Module | None = None) -> nn.Module:
        """Own a module from now on; it takes the tensors that a checkpoint has for it.

        Args:
            owner: the modifier's name.
            name: of the module among the owner's.
            module: on its device, with its initial values.
            trained_like: the model, where the module is to be trained: parameters of the same names and shapes get the
                settings of the param groups that those of the model are in, others the settings of the first group.

        Raises:
            ScheduleError: no optimizer like the user's can be built.
            CheckpointError: the checkpoint's tensors have other shapes.
        """
        key = f"{owner}/{name}"
        self._modules[key] = module
        if trained_like is not None:
            self._mirrored[key] = mirrored_optimizers(self.optimizers, module, trained_like)
        self._restore(key)
        return module

    def grow(self, owner: str, name: str, build: Callable[[], M], model: nn.Module, seed: int = 0) -> M:
        """Build a module, trained from now on, where the model is and in its type.

        Args:
            owner, name: as for `add`.
            build: makes it, on the CPU.
            model: the one that it is trained with.
            seed: of its initial values, the same in every process.
        """
        with seeded(seed, torch.device("cpu")), torch.device("cpu"):
            made = build()
        like = _like_floating(model)
        if like is not None:
            made.to(like.device, like.dtype)
        self.add(owner, name, made, trained_like=model)
        return made

    def of(self, owner: str) -> dict[str, nn.Module]:
        """The modules of a modifier by name."""
        return {key.partition("/")[2]: module for key, module in self._modules.items() if _is_of(key, owner)}

    def trained(self) -> list[nn.Module]:
        """Those that are trained with the model."""
        return [self._modules[key] for key, optimizers in self._mirrored.items() if optimizers]

    def remove(self, owner: str) -> None:
        """Let a modifier's modules go."""
        for known in (self._modules, self._mirrored, self._saved):
            for key in [key for key in known if _is_of(key, owner)]:
                del known[key]

    def follow(self, owner: str, model: nn.Module) -> None:
        """Go where the model has gone since: to its device and type."""
        keys = [key for key in self._modules if _is_of(key, owner)]
        like = _like_floating(model) if keys else None
        for key in keys:
            own = next(self._modules[key].parameters(), None)
            if own is not None and like is not None and (own.device, own.dtype) != (like.device, like.dtype):
                self._modules[key].to(like.device, like.dtype)
                for optimizer in self._mirrored.get(key, []):
                    optimizer.move_state()

    def step(self, scale: float) -> None:
        """Follow a step of the user's optimizer; steps with gradients that are not finite are left out.

        Args:
            scale: of the gradient scaler: gradients are that much too large.
        """
        for key, optimizers in self._mirrored.items():
            gradients = _averaged_gradients(self._modules[key])
            if gradients and _unscaled_(gradients, scale):
                for optimizer in optimizers:
                    optimizer.step()
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """After a step of the user's optimizer that was skipped."""
        for key in self._mirrored:
            self._modules[key].zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        own = {
            key: {
                "module": _copied(module.state_dict()),
                "optimizers": [_copied(one.optimizer.state_dict()) for one in self._mirrored.get(key, [])],
            }
            for key, module in self._modules.items()
        }
        return {**self._saved, **own}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """What modules that are added from now on, or were before, take their tensors from."""
        self._saved = dict(saved)
        for key in self._modules:
            self._restore(key)

    def _restore(self, key: str) -> None:
        saved = self._saved.pop(key, None)
        if saved is None:
            return
        try:
            missing, _ = self._modules[key].load_state_dict(saved["module"], strict=False)
            if missing:
                raise ValueError(f"it has no {missing[0]}")
            states = saved["optimizers"] if self.optimizers else []
            for one, state in zip(self._mirrored.get(key, []), states, strict=True):
                one.optimizer.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's {key} does not fit: {error}") from error


@dataclass(frozen=True)
class OwnModules:
    """The auxiliary modules of one modifier; see `AuxiliaryModules`."""

    modules: AuxiliaryModules
    owner: str

    def add(self, name: str, module: nn.Module, trained_like: nn.Module | None = None) -> nn.Module:
        """Own a module from now on, saved with the run: see `AuxiliaryModules.add`."""
        return self.modules.add(self.owner, name, module, trained_like)

    def grow(self, name: str, build: Callable[[], M], model: nn.Module, seed: int = 0) -> M:
        """Build a module that is trained from now on: see `AuxiliaryModules.grow`."""
        return self.modules.grow(self.owner, name, build, model, seed)

    def by_name(self) -> dict[str, nn.Module]:
        """The modules by name."""
        return self.modules.of(self.owner)

    def remove(self) -> None:
        """Let all of them go."""
        self.modules.remove(self.owner)

    def follow(self, model: nn.Module) -> None:
        """Bring them to the model's device and type."""
        self.modules.follow(self.owner, model)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers from a seed, the same in every process; the user's generators are as before afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(seed)
        yield


def _copied(state: Mapping[str, Any]) -> Any:
    return tree_map(lambda part: part.detach().cpu().clone() if isinstance(part, Tensor) else part, dict(state))


def _like_floating(model: nn.Module) -> nn.Parameter | None:
    return next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)


def _is_of(key: str, owner: str) -> bool:
    return key.startswith(f"{owner}/")


def _averaged_gradients(module: nn.Module) -> list[Tensor]:
    """The gradients, in each process the means of all."""
    if in_one_process():
        return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    own = [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]
    for parameter, gradient in zip(trained, mean_of_all(own), strict=True):
        parameter.grad = gradient
    return [parameter.grad for parameter in trained if parameter.grad is not None]


def _unscaled_(gradients: Sequence[Tensor], scale: float) -> bool:
    """Divide by the scale; whether all are finite."""
    if scale != 1:
        torch._foreach_div_(list(gradients), scale)
    return bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
