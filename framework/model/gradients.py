"""What is done to the gradients of single parameters before they are added up and an optimizer reads them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Gradients"]

Rule = Callable[[Tensor], Tensor]


class Gradients:
    """The rules that one owner has for gradients: added and removed together.

    A rule is a linear function of a parameter's gradient, in each backward: so accumulated gradients, those that
    DistributedDataParallel averages, scaled and clipped ones are what they would be by the rule. It hangs on the
    parameter (``Tensor.register_hook``), outside of what is compiled; copies and pickles of the model are without it.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def add(self, parameter: nn.Parameter, rule: Rule) -> None:
        """Let a rule act on a parameter's gradients; of one that is not trained there are none."""
        if parameter.requires_grad:
            handle: RemovableHandle = parameter.register_hook(rule)  # type: ignore[no-untyped-call]
            self._handles.append(handle)

    def remove(self) -> None:
        """Take all rules off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
