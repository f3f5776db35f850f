"""Quantizers of results inside of a module's forward, such as residual sums, which no module returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from paredown.framework.model.operators import TreatedResults
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, Place, Quantizer

__all__ = ["ResultQuantizers", "call_of", "place_of_call"]

PREFIX = "result_"


class ResultQuantizers(Quantizer):
    """Quantizes the results of some calls in a module's forward; see `paredown.framework.model.operators`.

    Args:
        members: by the number of the call.
    """

    def __init__(self, members: Mapping[int, ActivationQuantizer]) -> None:
        self.members = dict(members)

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        treatments = {number: partial(_treated, each, module) for number, each in self.members.items()}
        with TreatedResults(treatments):
            return call(module, *args, **kwargs)

    def replaced(self, number: int, quantizer: ActivationQuantizer) -> ResultQuantizers:
        """The same with another quantizer for one call."""
        new = ResultQuantizers({**self.members, number: quantizer})
        new.owner = self.owner
        return new


def place_of_call(number: int | None) -> Place:
    """The place of a call's result, or of what the module returns where the number is None.

    >>> place_of_call(3), place_of_call(None)
    ('result_3', 'output')
    """
    return "output" if number is None else f"{PREFIX}{number}"


def call_of(place: Place) -> int | None:
    """The number of the call whose result a place is; None: it is the input or the output."""
    return int(place.removeprefix(PREFIX)) if place.startswith(PREFIX) else None


def _treated(quantizer: ActivationQuantizer, module: nn.Module, x: Any) -> Any:
    return quantizer.treated(x, module)
