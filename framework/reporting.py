"""What a run tells when it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from paredown.framework.events import EventLog
from paredown.framework.recipe import Recipe
from paredown.framework.training import Training

__all__ = ["Reporter"]


class Reporter:
    def __init__(self, training: Training, recipe: Recipe) -> None:
        self.training = training

    def report(self, evaluate: Callable[[nn.Module], float] | None, events: EventLog) -> Any:
        return None
