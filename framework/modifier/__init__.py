"""The contract of a modifier: what a plug-in imports.

`Modifier`, `TargetedModifier` and `Recalibrating` are base classes, `Foreseen` is a line of the plan, `Training` what a
modifier may reach of a run. `Time`, `Share`, `ScheduledNumber`, `Curve` and `Options` are types of fields,
`PerParameter` keeps tensors by parameter in a state, `Link` acts around a forward, `Term` and `Pass` are an auxiliary
loss, and `register` makes a class known.
"""

from paredown.framework.auxiliary.losses import Pass, Term
from paredown.framework.model.links import Link
from paredown.framework.modifier.base import Foreseen, Modifier, Recalibrating, TargetedModifier
from paredown.framework.modifier.curves import Curve, Ramp, ScheduledNumber, curve_value, value_at
from paredown.framework.modifier.fields import Budget, Options, Pattern, Patterns, Share, Trial
from paredown.framework.modifier.registry import register
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.framework.storage.state import PerParameter

__all__ = [
    "Budget",
    "Curve",
    "Foreseen",
    "Link",
    "Modifier",
    "Options",
    "Pass",
    "Pattern",
    "Patterns",
    "PerParameter",
    "Ramp",
    "Recalibrating",
    "ScheduledNumber",
    "Share",
    "TargetedModifier",
    "Term",
    "Time",
    "Training",
    "Trial",
    "curve_value",
    "register",
    "value_at",
]
