"""Injecting gradients at a model's output: the identity forwards, several losses backwards.

What the loop's own loss sends to the output is scaled, the auxiliary losses get their own gradient, and transfers
(`paredown.framework.auxiliary.gradient_transfer`) get the gradient that the loop's loss would have there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from paredown.framework.auxiliary.gradient_transfer import GradientTransfer, gradient_there
from paredown.framework.errors import ParedownError

__all__ = ["Controls", "counted", "inject"]


@dataclass
class Controls:
    """0-d tensors that a compiled graph reads when it runs.

    Attributes:
        keep: share of the loop's own loss that stays.
        share: of an auxiliary loss in one forward: 1 / accumulate.
        scale: of the gradient scaler.
        explicitly: above 0 where the loop's loss already holds the terms.
        ticket: a leaf whose gradient counts the backward passes.
        kept, explicit: ``keep`` and ``explicitly`` as Python values, for backward passes that are not compiled.
    """

    keep: Tensor
    share: Tensor
    scale: Tensor
    explicitly: Tensor
    ticket: Tensor
    kept: float = 1.0
    explicit: bool = False

    def set_keep(self, share: float) -> None:
        """Change the share of the loop's own loss that stays."""
        self.kept = share
        self.keep.data.fill_(share)

    def open(self, explicit: bool) -> None:
        """Say whether the loop's loss holds everything."""
        if explicit != self.explicit:
            self.explicit = explicit
            self.explicitly.data.fill_(float(explicit))


def inject(output: Any, weighted: Tensor, controls: Controls, transfers: Sequence[GradientTransfer]) -> Any | None:
    """A copy of the output whose gradient is handed on, and hands ``weighted`` and the transfers their own.

    Returns None where the output holds no tensor with a gradient.
    """
    if isinstance(output, Tensor):
        passed = _through([output], weighted, controls, transfers)
        return None if passed is None else passed[0]
    parts = _fields(output)
    leaves, structure = tree_flatten(output if parts is None else parts)
    passed = _through(leaves, weighted, controls, transfers)
    if passed is None:
        return None
    passed_on = tree_unflatten(passed, structure)
    return passed_on if parts is None else dataclasses.replace(output, **passed_on)


def _through(
    leaves: list[Any], weighted: Tensor, controls: Controls, transfers: Sequence[GradientTransfer]
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
        None if torch.compiler.is_compiling() else controls,
        weighted,
        *(controls.keep, controls.share, controls.scale, controls.explicitly, controls.ticket),
        *[receiver.share for receiver in transfers],
        *[receiver.tensor for receiver in transfers],
        *passing,
    )
    for place, leaf in zip(places, passed, strict=True):
        leaves[place] = leaf
    return leaves


class _Injection(torch.autograd.Function):
    """Takes the places of the outputs that lead, the transfers' dimensions, the controls where it is not compiled, the
    weighted terms, the controls' tensors, the transfers' shares, the transfers, and the outputs."""

    @staticmethod
    def forward(
        ctx: Any,
        led: tuple[int, ...],
        dimensions: tuple[int | None, ...],
        live: Controls | None,
        weighted: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        controls, rest = tensors[:5], tensors[5:]
        count = len(led)
        outputs = rest[2 * count :]
        ctx.led, ctx.dimensions, ctx.live = led, dimensions, live
        ctx.save_for_backward(*controls[:4], *rest[: 2 * count], *[outputs[place] for place in led])
        return tuple(output.clone() for output in outputs)  # a view would break in-place operations on the output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        keep, share, scale, explicitly, *followed = ctx.saved_tensors
        sent = share * scale
        passed, own, whole, ticked = _shares(ctx.live, keep, sent, explicitly, gradients)
        scaled = [None if gradient is None else (gradient * passed).to(gradient.dtype) for gradient in gradients]
        count = len(ctx.led)
        shares, tensors, sources = (followed[place * count : (place + 1) * count] for place in range(3))
        told = [
            gradient_there(gradients[place], whole, sent, part, tensor, source, dimension)
            for place, dimension, part, tensor, source in zip(
                ctx.led, ctx.dimensions, shares, tensors, sources, strict=True
            )
        ]
        return None, None, None, own, None, None, None, None, ticked, *[None] * count, *told, *scaled


def _shares(
    live: Controls | None, keep: Tensor, sent: Tensor, explicitly: Tensor, gradients: tuple[Tensor | None, ...]
) -> tuple[float | Tensor, Tensor, float | Tensor, Tensor]:
    """What stays of the loop's gradient, what the terms get, what makes the loop's gradient whole again, and what the
    ticket gets: where the loop's loss holds everything, `counted` counts its backward passes."""
    if live is not None:
        if live.explicit:
            return 1.0, torch.zeros_like(sent), (1 / live.kept if live.kept else 1.0), torch.zeros_like(keep)
        return live.kept, sent, 1.0, torch.ones_like(keep)
    explicit = _read_late(explicitly, gradients) > 0  # manager.loss and wrap_criterion: the user's loss holds the terms
    one = torch.ones_like(keep)
    return (
        torch.where(explicit, one, keep),
        torch.where(explicit, torch.zeros_like(keep), sent.to(keep.dtype)),
        torch.where(explicit, one / keep, one),
        torch.where(explicit, torch.zeros_like(keep), one),
    )


def counted(weighted: Tensor, ticket: Tensor) -> Tensor:
    """The same value; the backward passes that go through it are counted by the ticket."""
    passed: Tensor = _Counted.apply(weighted, ticket)  # type: ignore[no-untyped-call]
    return passed


class _Counted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weighted: Tensor, ticket: Tensor) -> Tensor:
        ctx.save_for_backward(ticket)
        return weighted.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (ticket,) = ctx.saved_tensors
        return gradient, torch.ones_like(ticket)


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
