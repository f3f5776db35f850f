"""Injecting gradients at a model's output: the identity forwards, several losses backwards.

What the loop's own loss sends to the output is scaled, the auxiliary losses get their own gradient, and transfers
(`paredown.framework.auxiliary.gradient_transfer`) get the gradient that the loop's loss would have there.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from paredown.framework.auxiliary.forwards import Asked, TrainingForward, asked_for
from paredown.framework.auxiliary.gradient_transfer import GradientTransfer, gradient_there
from paredown.framework.errors import ParedownError

__all__ = ["Controls", "counted", "inject", "passes_injection"]

#: of the ticket among the tensors that an injection takes
TICKET = 7

DIFFERENTIATED = (
    "a gradient was taken through the model that is itself differentiated (create_graph=True, as for a gradient "
    "penalty), and what it adds to the gradients of the weights cannot be weighed against the auxiliary losses there: "
    "pass the whole loss through `loss = manager.loss(loss)` before loss.backward()"
)


@dataclass
class Controls:
    """Tensors that a compiled graph reads when it runs, and writes what happened into; 0-d where not said otherwise.

    Attributes:
        keep: share of the loop's own loss that stays.
        share: of an auxiliary loss in one forward: 1 / accumulate.
        scale: of the gradient scaler.
        explicitly: above 0 where the loop's loss already holds the terms.
        passes: (2,), backward passes through compiled forwards, without and with ``explicitly``.
        unread: above 0 where a gradient could not be read in a compiled backward pass.
        ticket: a leaf whose gradient counts those of the compiled passes that are for everything.
        kept, explicit: ``keep`` and ``explicitly`` as Python values, for backward passes that are not compiled.
    """

    keep: Tensor
    share: Tensor
    scale: Tensor
    explicitly: Tensor
    passes: Tensor
    unread: Tensor
    ticket: Tensor
    kept: float = 1.0
    explicit: bool = False

    @classmethod
    def on(cls, device: torch.device, scale: Tensor, accumulate: int = 1) -> Controls:
        """Those of a run at its beginning."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        share = torch.full((), 1.0 / accumulate, dtype=torch.float64, device=device)
        return cls(zeros(), share, scale, zeros(), zeros(2), zeros(), zeros().requires_grad_())

    def set_keep(self, share: float) -> None:
        """Change the share of the loop's own loss that stays."""
        self.kept = share
        self.keep.data.fill_(share)

    def open(self, explicit: bool) -> None:
        """Say whether the loop's loss holds everything."""
        if explicit != self.explicit:
            self.explicit = explicit
            self.explicitly.data.fill_(float(explicit))

    def counted(self) -> tuple[int, int, int, bool]:
        """Of compiled forwards since the last step: backward passes without and with explicit terms, those of the first
        that were for everything, and whether a gradient could not be read."""
        automatic, explicit = (int(number) for number in self.passes.tolist())
        ticked = 0 if self.ticket.grad is None else int(self.ticket.grad)
        return automatic, explicit, ticked, bool(self.unread)

    def reset(self) -> None:
        """Begin the count of the next step."""
        self.open(explicit=False)
        self.ticket.grad = None
        self.passes.data.zero_()
        self.unread.data.zero_()


def inject(
    output: Any,
    weighted: Tensor,
    controls: Controls,
    transfers: Sequence[GradientTransfer],
    forward: TrainingForward | None,
) -> Any | None:
    """A copy of the output whose gradient is handed on, and hands ``weighted`` and the transfers their own.

    Args:
        output: of the model.
        weighted: 0-d; the sum of weight x term.
        controls: of all forwards.
        transfers: what learns from the loop's own loss too.
        forward: this one; None where it is compiled.

    Returns:
        The copy; None where the output holds no tensor with a gradient.
    """
    through = functools.partial(_through, weighted=weighted, controls=controls, transfers=transfers, forward=forward)
    if isinstance(output, Tensor):
        passed = through([output])
        return None if passed is None else passed[0]
    parts = _fields(output)
    leaves, structure = tree_flatten(output if parts is None else parts)
    passed = through(leaves)
    if passed is None:
        return None
    passed_on = tree_unflatten(passed, structure)
    return passed_on if parts is None else dataclasses.replace(output, **passed_on)


def _through(
    leaves: list[Any],
    weighted: Tensor,
    controls: Controls,
    transfers: Sequence[GradientTransfer],
    forward: TrainingForward | None,
) -> list[Any] | None:
    """The leaves of an output, those with a gradient passed through the injection; None where there are none."""
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not places:
        return None
    passing = [leaves[place] for place in places]
    led = tuple(_place_of(receiver.own, passing) for receiver in transfers)
    dimensions = tuple(receiver.dimension for receiver in transfers)
    passed = _Injection.apply(  # type: ignore[no-untyped-call]
        led,
        dimensions,
        None if forward is None else (controls, forward),
        weighted,
        *(controls.keep, controls.share, controls.scale, controls.explicitly),
        *(controls.passes, controls.unread, controls.ticket),
        *[receiver.share for receiver in transfers],
        *[receiver.tensor for receiver in transfers],
        *passing,
    )
    for place, leaf in zip(places, passed, strict=True):
        leaves[place] = leaf
    if forward is not None:
        forward.graph = weakref.ref(passed[0].grad_fn)
    return leaves


Live = tuple[Controls, TrainingForward]


class _Injection(torch.autograd.Function):
    """Takes the places of the outputs that lead, the transfers' dimensions, the controls and the forward where it is
    not compiled, the weighted terms, the controls' tensors, the transfers' shares, the transfers, and the outputs."""

    @staticmethod
    def forward(
        ctx: Any,
        led: tuple[int, ...],
        dimensions: tuple[int | None, ...],
        live: Live | None,
        weighted: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        controls, rest = tensors[:7], tensors[7:]
        count = len(led)
        outputs = rest[2 * count :]
        ctx.led, ctx.dimensions, ctx.live = led, dimensions, live
        ctx.save_for_backward(*controls[:6], *rest[: 2 * count], *[outputs[place] for place in led])
        return tuple(output.clone() for output in outputs)  # a view would break in-place operations on the output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        keep, share, scale, explicitly, passes, unread, *followed = ctx.saved_tensors
        sent = share * scale
        count = len(ctx.led)
        passed: float | Tensor
        whole: float | Tensor | None
        own: Tensor | None
        ticked: Tensor | None = None
        if ctx.live is not None:
            passed, own, whole = _live_shares(ctx, sent, count)
        else:
            passed, own, whole, ticked = _compiled_shares(keep, sent, explicitly, passes, gradients)
        told: list[Tensor | None] = [None] * count
        if whole is not None:
            told = _transferred(ctx, gradients, whole, sent, followed, None if ctx.live is not None else unread)
        scaled = [None if gradient is None else (gradient * passed).to(gradient.dtype) for gradient in gradients]
        return None, None, None, own, *[None] * 6, ticked, *[None] * count, *told, *scaled


def _live_shares(ctx: Any, sent: Tensor, transfers: int) -> tuple[float, Tensor | None, float | None]:
    """Of a forward that was not compiled: what stays of the loop's gradient, what the terms get, and what makes the
    loop's gradient whole again (None: transfers get nothing).

    A gradient that is no training of the weights (an attack, a penalty) goes past.

    Raises:
        ParedownError: one is differentiated again, and the loop's loss does not hold the terms.
    """
    controls, forward = ctx.live
    again = torch.is_grad_enabled()
    if forward.combined:
        if again and transfers:
            raise ParedownError(
                "gradients that are differentiated again (create_graph=True) cannot be told to what is trained beside "
                "the model: call loss.backward() without it"
            )
        return 1.0, None, (1 / controls.kept if controls.kept else 1.0)
    asked = asked_for(ctx, TICKET, forward)
    if again:
        if asked is Asked.EVERYTHING:
            raise ParedownError(DIFFERENTIATED)
        forward.differentiate()
    forward.past = forward.past or asked is Asked.OTHERS
    if again or asked is Asked.OTHERS:
        return 1.0, None, None
    if controls.explicit:
        forward.tally.loose += 1
        forward.past = True
        return 1.0, None, None
    if forward.differentiated:
        raise ParedownError(DIFFERENTIATED)
    forward.arrive()
    return controls.kept, sent, 1.0


def _compiled_shares(
    keep: Tensor, sent: Tensor, explicitly: Tensor, passes: Tensor, gradients: tuple[Tensor | None, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a compiled forward: what stays of the loop's gradient, what the terms get, what makes the loop's gradient
    whole again, and what the ticket gets; the pass is counted."""
    explicit = _read_late(explicitly, gradients) > 0  # manager.loss and wrap_criterion: the user's loss holds the terms
    one = torch.ones_like(keep)
    counted_here = torch.where(explicit, torch.zeros_like(keep), one)
    with torch.no_grad():
        passes.add_(torch.stack([counted_here, 1 - counted_here]))
    return (
        torch.where(explicit, one, keep),
        torch.where(explicit, torch.zeros_like(keep), sent.to(keep.dtype)),
        torch.where(explicit & (keep > 0), one / keep, one),
        counted_here,
    )


def _transferred(
    ctx: Any,
    gradients: tuple[Tensor | None, ...],
    whole: float | Tensor,
    sent: Tensor,
    followed: list[Tensor],
    unread: Tensor | None,
) -> list[Tensor | None]:
    """The gradients of the transfers."""
    count = len(ctx.led)
    shares, tensors, sources = (followed[place * count : (place + 1) * count] for place in range(3))
    return [
        gradient_there(gradients[place], whole, sent, part, tensor, source, dimension, unread)
        for place, dimension, part, tensor, source in zip(
            ctx.led, ctx.dimensions, shares, tensors, sources, strict=True
        )
    ]


def counted(weighted: Tensor, ticket: Tensor, forward: TrainingForward | None) -> Tensor:
    """The same value; the backward passes that go through it are counted, by the forward or by the ticket."""
    passed: Tensor = _Counted.apply(weighted, ticket, forward)  # type: ignore[no-untyped-call]
    return passed


class _Counted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weighted: Tensor, ticket: Tensor, forward: TrainingForward | None) -> Tensor:
        ctx.save_for_backward(ticket)
        ctx.of = forward
        return weighted.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        if ctx.of is not None:
            if not torch.is_grad_enabled() and asked_for(ctx, 1, ctx.of) is not Asked.OTHERS:
                ctx.of.arrive()
            return gradient, None, None
        (ticket,) = ctx.saved_tensors
        return gradient, torch.ones_like(ticket), None


def passes_injection(node: Any) -> bool:
    """Whether a graph leads through the injection of a forward whose terms were added to the loop's loss."""
    seen, ahead = {node}, [node]
    while ahead:
        node = ahead.pop()
        live = getattr(node, "live", None)
        if live is not None and isinstance(node, _Injection._backward_cls):
            if live[1].combined:
                return True
            continue
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                ahead.append(following)
    return False


def _place_of(own: Tensor, passing: Sequence[Tensor]) -> int:
    found = next((place for place, leaf in enumerate(passing) if leaf is own), None)
    if found is None:
        raise ParedownError("a receiver's source is no part of the model's output that has a gradient")
    return found


def _fields(output: Any) -> dict[str, Any] | None:
    """The fields of a dataclass that is no mapping (pytree does not look into it); None for anything else."""
    if not dataclasses.is_dataclass(output) or isinstance(output, (Mapping, type)):
        return None
    return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}


def _read_late(explicitly: Tensor, gradients: tuple[Tensor | None, ...]) -> Tensor:
    """The flag as it is at backward. Compilers move what no incoming gradient is part of into the forward: one is."""
    incoming = next(gradient for gradient in gradients if gradient is not None)
    probe = incoming.detach().reshape(-1)[:1].sum()
    return torch.where(probe == probe, explicitly, explicitly)
