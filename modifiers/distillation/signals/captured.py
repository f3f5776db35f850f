"""Capturing what layers return in a forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.model.forward import recomputes
from paredown.framework.model.links import Link

__all__ = ["Capture"]


class Capture(Link):
    """A link that keeps what a layer gave in the newest forward, until it is taken."""

    def __init__(self, name: str, model: nn.Module | None = None, layer: str = "") -> None:
        """``name`` is for messages; ``model`` is a teacher, ``layer`` its layer's name."""
        self.name = name
        self.model, self.layer = model, layer
        self.given: Any = None
        self.learns = True

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        output = call(module, *args, **kwargs)
        if not recomputes():
            self.given, self.learns = output, torch.is_grad_enabled() or not module.training
        return output

    def take(self) -> Any:
        """What the layer gave; it is let go.

        Raises:
            TargetError: the layer was not called, or a student's layer ran without gradients.
        """
        given, self.given = self.given, None
        if given is None:
            raise TargetError(
                f"{self.name} was not called in the forward of its model (a parent may use its weight alone, as some "
                "fused forwards do): pair another layer"
            )
        if self.model is None and torch.is_grad_enabled() and not self.learns:
            raise TargetError(
                f"{self.name} ran without gradients inside of the model's forward, and would learn nothing: "
                "checkpoint activations with use_reentrant=False, or pair a layer outside of the part that runs so"
            )
        return given
