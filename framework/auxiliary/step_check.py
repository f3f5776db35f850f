"""Refusing an optimizer step whose gradients the auxiliary losses did not reach as they should."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer

from paredown.framework.auxiliary.forwards import Tally
from paredown.framework.auxiliary.gradient_transfer import OTHER_LOSS
from paredown.framework.auxiliary.injection import DIFFERENTIATED
from paredown.framework.errors import ParedownError

__all__ = ["Step", "check_step"]

OTHER_WAYS = (
    "compute the loss once a forward and pass it through `loss = manager.loss(loss)`, "
    "or wrap the criterion: `criterion = manager.wrap_criterion(criterion)`"
)


@dataclass
class Step:
    """What happened since the last optimizer step.

    Attributes:
        names: of the auxiliary losses.
        forwards: training forwards.
        left: those whose graph is there, and through which no backward pass went.
        tally: of those that were not compiled, and of the losses that terms were added to.
        automatic, explicit: backward passes through compiled ones, without and with terms in the loop's loss.
        ticked: those of the automatic ones that were for everything.
        unread: whether other networks learn from a gradient that could not be read in a compiled backward pass.
    """

    names: str
    forwards: int
    left: int
    tally: Tally
    automatic: int
    explicit: int
    ticked: int
    unread: bool

    @property
    def compiled(self) -> int:
        """Forwards that were compiled."""
        return self.forwards - self.tally.forwards

    @property
    def reached(self) -> int:
        """Forwards whose terms reached a gradient."""
        return self.tally.reached + min(self.ticked, self.compiled)

    @property
    def again(self) -> int:
        """Backward passes that brought the terms of a forward once more."""
        return self.tally.again + max(self.ticked - self.compiled, 0)


def check_step(step: Step, optimizer: Optimizer, accumulate: int | None, scaler: bool, fp16: bool) -> None:
    """Check what happened before an optimizer takes a step.

    Args:
        step: what happened.
        optimizer: the one that is about to step.
        accumulate: over how many forwards the loop's loss is divided, if that was declared.
        scaler: whether a gradient scaler was declared.
        fp16: whether a forward ran under fp16 autocast without one.

    Raises:
        ParedownError: scaling that was not declared, a second backward, gradients that went past a term, or that other
            networks cannot learn from.
    """
    if step.unread:
        raise ParedownError(OTHER_LOSS)
    if step.tally.combined:
        _check_combined(step)
    else:
        _check_automatic(step)
        _check_scaling(step, optimizer, accumulate, scaler, fp16)
    if step.again:
        raise ParedownError(
            f"{step.reached + step.again} backward passes went through {step.reached} forward of the model, and each "
            f"brought the gradient of {step.names}: {OTHER_WAYS}"
        )
    if step.left:
        raise ParedownError(
            f"{step.names} was computed in {step.reached + step.left} training forwards but reached a gradient in "
            f"{step.reached}: run forwards that are not trained on under torch.no_grad(), or {OTHER_WAYS}"
        )
    if step.forwards and not step.reached and has_gradients(optimizer):
        raise ParedownError(
            f"{step.names} was computed in {step.forwards} training forwards, and reached a gradient in none of them, "
            "but the optimizer steps with gradients: let loss.backward() go through the model's output, call "
            "model.eval() and use torch.no_grad() for forwards that are not trained on"
        )


def has_gradients(optimizer: Optimizer) -> bool:
    """Whether the optimizer has a gradient that is not zero."""
    gradients = (parameter.grad for group in optimizer.param_groups for parameter in group["params"])
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def _check_combined(step: Step) -> None:
    automatic = step.left + step.tally.loose + step.automatic + max(step.explicit - step.tally.combined, 0)
    if automatic:
        raise ParedownError(
            f"{automatic + step.tally.combined} training forwards, but {step.tally.combined} calls of manager.loss or "
            "of the wrapped criterion in this step: call it once after each forward"
        )


def _check_automatic(step: Step) -> None:
    if step.tally.differentiated:
        raise ParedownError(DIFFERENTIATED)
    if step.automatic > step.ticked:
        raise ParedownError(
            f"gradients were asked for by name (torch.autograd.grad or backward(inputs=...)) through a compiled model, "
            f"and {step.names} is in them: call model.eval() where nothing is trained with them (an attack), else "
            "loss.backward() without inputs"
        )


def _check_scaling(step: Step, optimizer: Optimizer, accumulate: int | None, scaler: bool, fp16: bool) -> None:
    if step.reached > 1 and accumulate is None and not scaler:
        raise ParedownError(
            f"{step.reached} training forwards in one optimizer step: if the loss is divided by {step.reached}, the "
            f"gradient of {step.names} is wrong unless that is declared; add it: "
            f"manager.modify(..., accumulate={step.reached}); or, if the loop scales nothing, accumulate=1"
        )
    scaled = not scaler and getattr(optimizer, "grad_scale", None) is not None
    if scaled or fp16:
        sign = "a GradScaler steps the optimizer" if scaled else "the forward runs under fp16 autocast"
        raise ParedownError(
            f"{sign}: the loss is scaled after it was computed, and the gradient of {step.names} is wrong unless that "
            "is declared; add it: manager.modify(..., grad_scaler=scaler)"
        )
