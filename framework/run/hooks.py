"""Hooks on the optimizers of somebody else's loop: they drive the clock and let the schedule act."""

from __future__ import annotations

import copyreg
import math
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from paredown.framework.errors import ScheduleError
from paredown.framework.model.forward import is_transformed
from paredown.framework.model.links import Link, add_link, links_of, remove_links
from paredown.framework.model.optimizers import complete_momenta_, layers_of, train_any
from paredown.framework.modifier.clock import Clock
from paredown.framework.modifier.run import Run
from paredown.framework.run.schedule import Schedule

__all__ = ["LoopHooks", "is_managed", "release_others"]


class LoopHooks:
    """Step hooks on every optimizer, a count of training forwards, and an eye on the gradient scaler.

    While ``paused``, steps are not the training's: torch fills an optimizer's state by one.
    """

    def __init__(self, run: Run, schedule: Schedule) -> None:
        self.run = run
        self.schedule = schedule
        self.seen_first_step = False
        self.paused = False
        self.beyond_the_end = False
        self.told_of_eval_mode = False
        self._handles: list[RemovableHandle] = []
        self._counter = _ForwardCounter(self)

    def attach(self) -> None:
        """Hook on."""
        before, after = (_not_compiled(hook) for hook in (self._before_step, self._after_step))
        for optimizer in self.run.optimizers:
            self._handles.append(optimizer.register_step_pre_hook(before))
            self._handles.append(optimizer.register_step_post_hook(after))
        add_link(self.run.model, self._counter)
        scaler = self.run.losses.scaling.grad_scaler
        if scaler is not None:
            self._watch(scaler)

    def remove(self) -> None:
        """Take everything off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        remove_links(self.run.model, [self._counter])
        scaler = self.run.losses.scaling.grad_scaler
        if scaler is not None and hasattr(type(scaler), "_paredown_base"):
            scaler.__class__ = type(scaler)._paredown_base

    def before_forward(self) -> None:
        """Before the model trains on: what somebody else wrote since the last step is put right."""
        if not self.paused:
            self.schedule.put_right()

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.paused:
            complete_momenta_(optimizer)
        if self.paused or _has_closure(args, kwargs):  # a closure runs forward and backward only after this hook
            return
        self.before_forward()  # where forwards are compiled, or are those of parts of the model
        self._check_losses(optimizer)

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.paused:
            return
        if _has_closure(args, kwargs):
            self._check_losses(optimizer)
        clock = self.run.clock
        assert clock is not None
        self.run.follow(optimizer)
        if optimizer is not self.run.optimizers[0]:
            self.schedule.hold()
        elif _skipped_inside(optimizer):
            clock.skipped += 1
            self.run.modules.forget_gradients()
        else:
            clock.steps += 1
            self._notice_eval_mode()
            self.run.modules.step(self.run.losses.scaling.scale)
            self._first_step()
            self.schedule.after_step()
            self.run.renew_reducer()
            self._warn_beyond_the_end(clock)
        self.run.follow(None)

    def _check_losses(self, optimizer: Optimizer) -> None:
        if self.run.losses.link is not None:
            self.run.losses.link.check_step(optimizer)

    def _first_step(self) -> None:
        if self.seen_first_step:
            return
        self.seen_first_step = True
        self.run.surgery.settle()
        self._check_optimizers()
        link = self.run.losses.link
        forwards = int(self._counter.forwards) if link is None else link.reached
        clock, scaling = self.run.clock, self.run.losses.scaling
        if forwards > 1 and scaling.accumulate is None and clock is not None and not clock.skipped:
            right = math.ceil(clock.steps_per_epoch / forwards)
            warnings.warn(
                f"{forwards} training forwards ran before the first optimizer step, and steps_per_epoch is "
                f"{clock.steps_per_epoch}. If the loop accumulates gradients and {clock.steps_per_epoch} is the number "
                f"of batches, an epoch has {right} optimizer steps: modify(..., steps_per_epoch={right}, "
                f"accumulate={forwards}). If {clock.steps_per_epoch} already counts optimizer steps, say "
                f"accumulate={forwards} alone; if nothing is accumulated, accumulate=1.",
                stacklevel=4,
            )

    def _notice_eval_mode(self) -> None:
        """Count steps whose forwards were all in eval mode, and warn once where that matters."""
        if not self._counter.was_in_eval_mode():
            return
        idle = self.run.idle_in_eval_mode()
        self.run.eval_mode_steps += bool(idle)
        if idle and not self.told_of_eval_mode:
            self.told_of_eval_mode = True
            warnings.warn(
                f"the model is in eval mode while it is trained, and {', '.join(idle)} work in training mode alone: "
                "call model.train() before training, and again after each evaluation",
                stacklevel=4,
            )

    def _warn_beyond_the_end(self, clock: Clock) -> None:
        if clock.run_steps is None or clock.steps <= clock.run_steps or self.beyond_the_end:
            return
        self.beyond_the_end = True
        warnings.warn(
            f"the loop trains on after the recipe has ended: run.epochs is {clock.run_epochs:g} and steps_per_epoch "
            f"{clock.steps_per_epoch}, which makes {clock.run_steps} optimizer steps. If the loop has more on purpose, "
            "call finalize() before; else give the right steps_per_epoch, or raise run.epochs",
            stacklevel=4,
        )

    def _check_optimizers(self) -> None:
        """Refuse to go on where what is trained is not what the model has: it was sharded after `modify`, or moved."""
        if not train_any(self.run.optimizers, self.run.model):
            raise ScheduleError(
                "the optimizer holds none of the model's parameters any more: something replaced them after modify. "
                "Wrap or shard the model first (fully_shard), build the optimizer then, and call modify after both"
            )

    def _watch(self, scaler: Any) -> None:
        """Count the steps that the scaler leaves out because gradients are not finite; a copy of it is plain."""
        base = type(scaler)

        def step(own: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            clock = self.run.clock
            assert clock is not None
            before = clock.steps + clock.skipped
            result = base.step(own, optimizer, *args, **kwargs)
            if layers_of(optimizer)[-1] is self.run.optimizers[0] and clock.steps + clock.skipped == before:
                clock.skipped += 1
                self.run.modules.forget_gradients()
                if self.run.losses.link is not None:
                    self.run.losses.link.reset()
            return result

        def reduce_ex(own: Any, protocol: Any) -> Any:
            return copyreg._reconstructor, (base, object, None), own.__getstate__()  # type: ignore[attr-defined]

        members = {"step": step, "__reduce_ex__": reduce_ex, "_paredown_base": base, "__module__": base.__module__}
        scaler.__class__ = type(base.__name__, (base,), members)


class _ForwardCounter(Link):
    """Counts training forwards, and those with gradients in eval mode, in tensors (a Python counter would cost a second
    compiled graph). What torch.func differentiates is not the loop's."""

    def __init__(self, hooks: LoopHooks) -> None:
        self.hooks = weakref.ref(hooks)
        self.forwards = torch.zeros((), dtype=torch.int64)
        self.in_eval_mode = torch.zeros((), dtype=torch.int64)
        self.before = (0, 0)

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() or is_transformed():
            return call(module, *args, **kwargs)
        if module.training:
            self.forwards.add_(1)
            hooks = None if torch.compiler.is_compiling() else self.hooks()
            if hooks is not None:
                hooks.before_forward()
        else:
            self.in_eval_mode.add_(1)
        return call(module, *args, **kwargs)

    def was_in_eval_mode(self) -> bool:
        """Whether there were forwards since the last call of this, all in eval mode."""
        before, self.before = self.before, (int(self.forwards), int(self.in_eval_mode))
        return self.before[0] == before[0] and self.before[1] > before[1]


def is_managed(model: nn.Module) -> bool:
    """Whether a manager has hooks on the model or a part of it; what one that is gone left there is taken off."""
    return bool(_hooks_on(model))


def release_others(model: nn.Module) -> None:
    """Take off the model and its parts what managers have there, whoever holds these managers."""
    for hooks in _hooks_on(model):
        hooks.schedule.release()
        hooks.remove()


def _hooks_on(model: nn.Module) -> list[LoopHooks]:
    found: list[LoopHooks] = []
    for module in model.modules():
        counters = [link for link in links_of(module) if isinstance(link, _ForwardCounter)]
        remove_links(module, [link for link in counters if link.hooks() is None])
        found += [hooks for hooks in (link.hooks() for link in counters) if hooks is not None]
    return found


def _not_compiled(hook: Callable[..., None]) -> Any:
    """Under a compiled optimizer step the hooks run as they are."""
    return torch.compiler.disable(hook)  # type: ignore[no-untyped-call]


def _has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return (len(args) > 1 and args[1] is not None) or kwargs.get("closure") is not None


def _skipped_inside(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer skipped its step inside its kernel: the scaler leaves it a note."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
