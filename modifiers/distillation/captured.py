"""What layers gave in a forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from paredown.framework.errors import TargetError
from paredown.framework.managed import Link

__all__ = ["Capture"]


class Capture(Link):
    """A link that keeps what a layer gave in the newest forward, until it is taken."""

    def __init__(self, name: str, model: nn.Module | None = None, layer: str = "") -> None:
        """``name`` is for messages; ``model`` is a teacher, ``layer`` its layer's name."""
        self.name = name
        self.model, self.layer = model, layer
        self.given: Any = None

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        output = call(module, *args, **kwargs)
        self.given = output
        return output

    def take(self) -> Any:
        """What the layer gave; it is let go.

        Raises:
            TargetError: the layer was not called.
        """
        given, self.given = self.given, None
        if given is None:
            raise TargetError(
                f"{self.name} was not called in the forward of its model (a parent may use its weight alone, as some "
                "fused forwards do): pair another layer"
            )
        return given
