"""Training forwards that are not compiled: the terms that belong to each, and what became of it.

The record of a forward hangs on the autograd node that injects its terms and goes with it, so that a forward whose
graph is freed without a backward (a batch that was dropped) leaves nothing behind. That of the newest one stays until
the next begins: its terms may be all that is trained on.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.errors import ParedownError

__all__ = ["Asked", "Tally", "TrainingForward", "asked_for"]


def _gone() -> None:
    """No graph."""


class Asked(Enum):
    """What a backward pass is to give gradients to."""

    EVERYTHING = "everything"
    WEIGHTS = "weights"
    OTHERS = "others"


@dataclass(eq=False)
class TrainingForward:
    """One training forward.

    Attributes:
        module: the model.
        beside: what is trained with it and is no part of it (adapters, exits, peers).
        tally: counts what becomes of it.
        weighted: the sum of weight x term, until it has reached a gradient.
        combined: whether the terms were added to the loop's loss explicitly.
        reached: backward passes that brought the gradient of the terms.
        differentiated: whether a gradient was taken through it that can be differentiated again.
        past: whether a backward pass went through it that brought no terms (of an attack).
        graph: the node that injects its terms, as long as it is there.
    """

    module: nn.Module
    beside: list[nn.Module]
    tally: Tally
    weighted: Tensor | None
    combined: bool = False
    reached: int = 0
    differentiated: bool = False
    past: bool = False
    graph: Callable[[], Any] = _gone

    def arrive(self) -> None:
        """Note a backward pass that brings the gradient of the terms."""
        self.reached += 1
        self.weighted = None
        if self.reached == 1:
            self.tally.reached += 1
        else:
            self.tally.again += 1

    def differentiate(self) -> None:
        """Note a gradient that can be differentiated again."""
        self.tally.differentiated += not (self.differentiated or self.combined)
        self.differentiated = True

    def combine(self) -> Tensor:
        """Hand over the terms, which are added to the loop's loss explicitly."""
        assert self.weighted is not None
        weighted, self.weighted, self.combined = self.weighted, None, True
        self.tally.differentiated -= self.differentiated
        return weighted


@dataclass
class Tally:
    """What became of training forwards since the last optimizer step.

    Attributes:
        forwards: how many there were.
        reached: whose terms reached a gradient.
        again: backward passes that brought the terms of a forward once more.
        combined: losses to which terms were added explicitly.
        loose: backward passes through forwards whose terms were not added to the loss, while those of others were.
        differentiated: forwards through which a gradient was taken that can be differentiated again.
    """

    forwards: int = 0
    reached: int = 0
    again: int = 0
    combined: int = 0
    loose: int = 0
    differentiated: int = 0
    _newest: TrainingForward | None = None
    _open: list[weakref.ref[TrainingForward]] = field(default_factory=list)

    def begin(self) -> None:
        """Let the newest forward go, before the next one needs its memory."""
        self._newest = None

    def add(self, forward: TrainingForward) -> None:
        """Count a forward whose terms may be added to the loop's loss."""
        self.forwards += 1
        self._open = [*(weakref.ref(known) for known in self._waiting()), weakref.ref(forward)]
        self._newest = forward

    def newest(self) -> TrainingForward | None:
        """The forward whose terms a loss is waiting for: the newest with a graph, else the newest."""
        waiting = [forward for forward in self._waiting() if forward.graph() is not None]
        if waiting:
            return waiting[-1]
        return None if self._newest is None or self._newest.weighted is None else self._newest

    def left(self) -> int:
        """How many forwards with a graph reached no gradient, and served nothing else."""
        if not self._left():
            return 0
        gc.collect()  # what hangs together in a circle is as good as gone
        return self._left()

    def _left(self) -> int:
        return sum(forward.graph() is not None and not forward.past for forward in self._waiting())

    def _waiting(self) -> list[TrainingForward]:
        """Those whose terms have reached no gradient and no loss, the newest last."""
        known = (reference() for reference in self._open)
        return [forward for forward in known if forward is not None and forward.weighted is not None]

    def reset(self) -> None:
        """Begin the count of the next step."""
        self._newest = None
        self.forwards = self.reached = self.again = self.combined = self.loose = self.differentiated = 0


def asked_for(node: Any, place: int, forward: TrainingForward) -> Asked:
    """What the backward pass that is at work is to give gradients to.

    Args:
        node: the autograd node that is at work.
        place: of a leaf among the node's inputs, that nobody asks for by name.
        forward: that the node belongs to.

    Raises:
        ParedownError: gradients of the weights are asked for by name, and those of what is trained beside the model
            are left out.
    """
    if _is_reached(node.next_functions[place][0]):
        return Asked.EVERYTHING
    if not _any_reached(forward.module):
        return Asked.OTHERS
    if not all(_any_reached(module) for module in forward.beside):
        raise ParedownError(
            "gradients are asked for by name (torch.autograd.grad or backward(inputs=...)), which leaves out what is "
            "trained beside the model (adapters, exits, peers): call loss.backward() without inputs"
        )
    return Asked.WEIGHTS


def _any_reached(module: nn.Module) -> bool:
    wanted = (parameter for parameter in module.parameters() if parameter.requires_grad)
    return any(_is_reached(torch.autograd.graph.get_gradient_edge(parameter).node) for parameter in wanted)


def _is_reached(node: Any) -> bool:
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # torch's answer for a leaf whose gradient torch.autograd.grad returns
        return True
