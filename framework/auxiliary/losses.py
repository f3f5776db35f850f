"""Auxiliary losses that reach the gradients of a training loop which knows nothing of them.

The managed forward of the model computes the terms from its output and passes a copy of that output through an
autograd function: the identity forwards; backwards it gives the incoming gradient on, times (1 - sum of weights), and
hands each term its own gradient. The total is (1 - sum of weights) x the user's loss + sum of weight x term.

A loop gets there in one of three ways: it adds nothing and the gradients are injected (automatic), it passes its loss
through `manager.loss`, or it wraps its criterion by `manager.wrap_criterion`. A 0-d tensor that the graph reads at
backward shows which one it is. Forwards that are not compiled keep a record of what becomes of them
(`paredown.framework.auxiliary.forwards`); of compiled ones forwards and backward passes are counted in tensors, inside
of the graph.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.auxiliary.forwards import Tally, TrainingForward
from paredown.framework.auxiliary.gradient_transfer import GradientTransfer
from paredown.framework.auxiliary.injection import Controls, counted, inject, passes_injection
from paredown.framework.auxiliary.step_check import Step, check_step
from paredown.framework.errors import ParedownError, ScheduleError, TargetError
from paredown.framework.model.batches import device_of
from paredown.framework.model.forward import is_transformed
from paredown.framework.model.links import Link, add_link, remove_links

__all__ = ["AuxiliaryLosses", "Losses", "OwnLoss", "Pass", "Scaling", "Term"]


@dataclass
class Scaling:
    """What the user declared to do to the loss after it was computed."""

    accumulate: int | None = None
    grad_scaler: Any = None

    @property
    def scale(self) -> float:
        """What gradients are too large by; 1 without a scaler."""
        active = self.grad_scaler is not None and self.grad_scaler.is_enabled()
        return float(self.grad_scaler.get_scale()) if active else 1.0

    def live_scale(self, device: torch.device) -> Tensor:
        """The scaler's scale, a 0-d tensor that the scaler updates in place; 1 where there is none."""
        if self.grad_scaler is None or not self.grad_scaler.is_enabled():
            return torch.ones((), dtype=torch.float64, device=device)
        self.grad_scaler.scale(torch.zeros((), device=device))  # creates its scale where that was not done yet
        scale: Tensor = self.grad_scaler._scale
        return scale


@dataclass
class Pass:
    """One training forward of the model.

    Attributes:
        output: what the model gave.
        args, kwargs: what it was called with.
        weight: of the term that is computed, 0-d.
        shared: what the terms of one forward share, such as a teacher's output.
        transfers: what terms want to learn from the loop's own loss too.
    """

    output: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    weight: Tensor
    shared: dict[str, Any] = field(default_factory=dict)
    transfers: list[GradientTransfer] = field(default_factory=list)


@dataclass
class Term:
    """One auxiliary loss: ``compute(forward)`` gives a 0-d tensor; ``add`` leaves the own loss whole.

    ``settings`` are 0-d tensors that ``compute`` reads and that may move over time.
    """

    compute: Callable[[Pass], Tensor]
    weight: float
    add: bool = False
    settings: dict[str, Tensor] = field(default_factory=dict)


def nothing_beside() -> list[nn.Module]:
    """No modules are trained beside the model."""
    return []


class AuxiliaryLosses(Link):
    """The link around the model's forward that computes all terms and injects their gradients.

    Args:
        terms: by the names of their modifiers.
        scaling: what the loop does to its loss.
        device: of the model.
        beside: gives what is trained with the model and is no part of it.

    Attributes:
        reached: forwards whose terms reached a gradient in the last optimizer step.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        scaling: Scaling,
        device: torch.device,
        beside: Callable[[], list[nn.Module]] = nothing_beside,
    ) -> None:
        self.terms = dict(terms)
        self.scaling = scaling
        self.beside = beside
        self.weights = torch.zeros(len(terms), dtype=torch.float64, device=device)
        self.each_weight = self.weights.unbind()
        self.values = torch.zeros(len(terms), dtype=torch.float64, device=device)
        self.fp16 = torch.zeros((), dtype=torch.float64, device=device)
        self.compiled_forwards = torch.zeros((), dtype=torch.int64, device=device)
        self.in_eval_mode = torch.zeros((), dtype=torch.int64, device=device)
        self.controls = Controls.on(device, scaling.live_scale(device), scaling.accumulate or 1)
        self.tally = Tally()
        self.before = 0
        self.newest: list[Tensor] = []
        self.pending: Tensor | None = None
        self.total: Tensor | None = None
        self.called = False
        self.transferring = False
        self.reached = 0
        self.reweigh()

    def reweigh(self) -> None:
        """Take over the terms' weights.

        Raises:
            ScheduleError: they are more than 1 in sum.
        """
        replacing = sum(term.weight for term in self.terms.values() if not term.add)
        if replacing > 1 + 1e-12:
            parts = ", ".join(f"{name} {term.weight:g}" for name, term in self.terms.items() if not term.add)
            raise ScheduleError(f"the weights of the auxiliary losses are {replacing:g} in sum, above 1: {parts}")
        self.controls.set_keep(1 - replacing)
        self.weights.data.copy_(torch.tensor([term.weight for term in self.terms.values()], dtype=torch.float64))

    def rescale(self, scaling: Scaling) -> None:
        """Take over over how many forwards the loop's loss is divided."""
        self.scaling = scaling
        self.controls.share.data.fill_(1.0 / (scaling.accumulate or 1))

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.tally.begin()
        output = call(module, *args, **kwargs)
        if not torch.is_grad_enabled():
            return output
        if not module.training:
            if not is_transformed():
                self.in_eval_mode.fill_(1)
            return output
        if self._unscaled_fp16():
            self.fp16.fill_(1.0)
        return self._inject(module, output, args, kwargs)

    def combine(self, loss: Tensor) -> Tensor:
        """The user's loss with the terms of the newest forward added explicitly; nothing is injected in its backward.

        Terms are added once: a further loss of the same forward is weighed alone.

        Raises:
            ParedownError: the weights are 1 in sum, and something is to learn from the loss's own gradient, which is
                then zero.
        """
        if self.transferring and not self.controls.kept:
            raise ParedownError(
                f"the weights of {', '.join(self.terms)} are 1 in sum, so that manager.loss leaves nothing of the "
                "loop's loss for what is trained beside the model (exits, peers) to learn from: give a weight below 1, "
                "or call loss.backward() on the loop's own loss, without manager.loss"
            )
        forward = self.tally.newest() if self.pending is None else None
        if self.pending is None and forward is None:
            return loss * self.controls.keep.to(loss.dtype) if self.tally.combined and self._is_ours(loss) else loss
        self.controls.open(explicit=True)
        pending = forward.combine() if forward is not None else self.pending
        assert pending is not None
        self.pending = None
        self.tally.combined += 1
        added = counted(pending, self.controls.ticket, forward)
        total = loss * self.controls.keep.to(loss.dtype) + added.to(loss.dtype)
        self.total = total.detach()
        return total

    def last_losses(self) -> dict[str, float]:
        """The newest value of each term, "injected" (the sum of weight x term), and "total" where it was added
        explicitly.

        Nothing before the first forward.
        """
        if not self.called and not self._forwards():
            return {}
        if self.newest:
            self.values.copy_(torch.stack([value.double() for value in self.newest]))
            self.newest = []
        values = dict(zip(self.terms, self.values.tolist(), strict=True))
        values["injected"] = float((self.values * self.weights).sum())
        return values if self.total is None else {**values, "total": float(self.total)}

    def check_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before the optimizer takes a step: every term must have reached its gradient once, and rightly scaled.

        Raises:
            ParedownError: see `paredown.framework.auxiliary.step_check.check_step`.
        """
        forwards, left = self._forwards(), self.tally.left()
        compiled = forwards > self.tally.forwards or self.controls.ticket.grad is not None
        of_compiled = self.controls.counted() if compiled else (0, 0, 0, False)
        step = Step(", ".join(self.terms), forwards, left, dataclasses.replace(self.tally), *of_compiled)
        self._notice_silence(step.forwards)
        self.reached, fp16 = step.reached, bool(self.fp16)
        self.reset()
        check_step(step, optimizer, self.scaling.accumulate, self.scaling.grad_scaler is not None, fp16)

    def reset(self) -> None:
        """Begin the count of the next step."""
        self.before = int(self.compiled_forwards)
        self.tally.reset()
        self.pending = None
        self.controls.reset()

    def _forwards(self) -> int:
        """Training forwards since the last step."""
        return self.tally.forwards + int(self.compiled_forwards) - self.before

    def _is_ours(self, loss: Tensor) -> bool:
        """Whether a loss was computed from a forward whose terms were added to another loss already."""
        return loss.grad_fn is not None and passes_injection(loss.grad_fn)

    def _inject(self, module: nn.Module, output: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        compiling = torch.compiler.is_compiling()
        if is_transformed():
            raise ParedownError(
                f"{', '.join(self.terms)}: the gradients of torch.func (grad, vmap, vjp, ...) do not take auxiliary "
                "losses along: call model.eval() where nothing is trained with them, else loss.backward()"
            )
        forward = Pass(output, args, kwargs, self.weights)
        values = []
        for weight, term in zip(self.each_weight, self.terms.values(), strict=True):
            forward.weight = weight
            values.append(term.compute(forward))
        self.transferring = bool(forward.transfers)
        weighted = self._weighted(values)
        record = None if compiling else TrainingForward(module, self.beside(), self.tally, weighted)
        passed_on = inject(output, weighted, self.controls, forward.transfers, record)
        if passed_on is None:
            raise TargetError(
                f"the model's output, a {type(output).__name__}, holds no tensor with a gradient: "
                f"{', '.join(self.terms)} cannot reach the weights through it"
            )
        if record is not None:
            self.pending = None
            self.tally.add(record)
        else:
            with torch.no_grad():
                self.compiled_forwards.add_(1)
            self.pending = weighted
        return passed_on

    def _weighted(self, values: Sequence[Tensor]) -> Tensor:
        """The sum of weight x term; the values are noted. What is not compiled needs no tensors for the weights."""
        if torch.compiler.is_compiling():
            terms = torch.stack([value.double() for value in values])
            with torch.no_grad():
                self.values.copy_(terms)
            return (terms * self.weights.to(terms.device)).sum()
        self.newest = [value.detach() for value in values]
        parts = [value * term.weight for value, term in zip(values, self.terms.values(), strict=True)]
        return parts[0] if len(parts) == 1 else torch.stack([part.double() for part in parts]).sum()

    def _unscaled_fp16(self) -> bool:
        kind = self.controls.keep.device.type
        half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        return half and self.scaling.grad_scaler is None

    def _notice_silence(self, forwards: int) -> None:
        """Warn once where the loop never calls the model itself, so that no term is ever computed."""
        if not forwards and not self.called and not bool(self.in_eval_mode):
            warnings.warn(
                f"{', '.join(self.terms)}: the model's own forward was not called in training mode in the first "
                "training step, so nothing was added to the loss: call model.train() where it is in eval mode; where "
                "the loop calls a part of the model, give that part to modify",
                stacklevel=4,
            )
        self.called = True


class Losses:
    """The auxiliary losses of one run: a term for each modifier that has one, and the link that injects them.

    Args:
        model: whose output the terms are computed from.
        beside: gives what is trained with the model and is no part of it.

    Attributes:
        scaling: what the user declared to do to the loss.
        link: around the model's forward; None while there is no term.
    """

    def __init__(self, model: nn.Module, beside: Callable[[], list[nn.Module]] = nothing_beside) -> None:
        self.model = model
        self.beside = beside
        self.scaling = Scaling()
        self.link: AuxiliaryLosses | None = None
        self._terms: dict[str, Term] = {}
        self._last: dict[str, float] = {}

    @property
    def owners(self) -> list[str]:
        """The modifiers that have a term now."""
        return list(self._terms)

    def add(self, owner: str, term: Term) -> None:
        """Add a term from the next forward on.

        Raises:
            ScheduleError: the weights of all terms are above 1 in sum.
        """
        self._rebuild({**self._terms, owner: term})

    def remove(self, owner: str) -> None:
        """Take an owner's term out of the loss."""
        if owner in self._terms:
            self._rebuild({name: term for name, term in self._terms.items() if name != owner})

    def set(self, owner: str, weight: float, settings: Mapping[str, float]) -> None:
        """Give an owner's term another weight and other settings from the next forward on.

        Raises:
            ScheduleError: the weights of all terms are above 1 in sum.
        """
        term = self._terms.get(owner)
        if term is not None and self.link is not None:
            term.weight = weight
            for name, value in settings.items():
                term.settings[name].data.fill_(value)
            self.link.reweigh()

    def accumulate(self, forwards: int) -> None:
        """From the next forward on, the loop divides its loss by so many; between two optimizer steps.

        Args:
            forwards: in the optimizer step that comes next, 1 or more.
        """
        if forwards != self.scaling.accumulate:
            self.scaling = dataclasses.replace(self.scaling, accumulate=forwards)
            if self.link is not None:
                self.link.rescale(self.scaling)

    def last(self) -> dict[str, float]:
        """The newest values, also after their windows have ended: see `AuxiliaryLosses.last_losses`."""
        if self.link is not None:
            self._last = {**self._last, **self.link.last_losses()}
        return self._last

    def _rebuild(self, terms: dict[str, Term]) -> None:
        self.last()
        link = AuxiliaryLosses(terms, self.scaling, device_of(self.model), self.beside) if terms else None
        if self.link is not None:
            remove_links(self.model, [self.link])
        if link is not None:
            add_link(self.model, link)
        self._terms, self.link = terms, link


@dataclass(frozen=True)
class OwnLoss:
    """One modifier's term of the loss; see `Losses`."""

    losses: Losses
    owner: str

    def add(self, term: Term) -> None:
        """Add the term from the next forward on. Raises ScheduleError where the weights are above 1 in sum."""
        self.losses.add(self.owner, term)

    def set(self, weight: float, settings: Mapping[str, float]) -> None:
        """Give the term another weight and other settings. Raises ScheduleError where the weights are above 1."""
        self.losses.set(self.owner, weight, settings)

    def remove(self) -> None:
        """Take the term out of the loss."""
        self.losses.remove(self.owner)

    def number(self, value: float) -> Tensor:
        """A 0-d tensor on the model's device, for a number that moves: a compiled graph reads it when it runs."""
        return torch.full((), value, dtype=torch.float32, device=device_of(self.losses.model))
