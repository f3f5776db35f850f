"""`freeze`: parameters that stand still."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from paredown.framework.modifier import TargetedModifier


class Freeze(TargetedModifier):
    """Parameters get no gradient and stand still while the window is open; at its end they train again."""

    example: ClassVar = {}
    claims: ClassVar = frozenset({"requires_grad"})
    kinds: ClassVar = (nn.Module,)

    type: Literal["freeze"] = "freeze"
