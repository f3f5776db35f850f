"""The base of the modifiers that remove parts of a model: what they aim at, and when."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import ValidationInfo, field_validator
from torch import nn

from paredown.framework.errors import ScheduleError
from paredown.framework.modifier.base import Recalibrating, TargetedModifier
from paredown.framework.modifier.curves import Curve, curve_value
from paredown.framework.modifier.fields import Share
from paredown.framework.modifier.time import Time
from paredown.framework.modifier.training import Training
from paredown.modifiers.pruning.removal.channel_budget import ChannelBudget

__all__ = ["StructuredPruning"]

#: what is counted is compared up to this
EXACT = 1e-6
#: what is measured differs from one time to the next by so much of itself
SLACK = {"latency": 0.1}


class StructuredPruning(Recalibrating, TargetedModifier):
    """Base: what is of low worth leaves the model."""

    claims: ClassVar = frozenset({"structure"})
    kinds: ClassVar = (nn.Module,)
    structural: ClassVar = True

    every: Time | None = None
    """Distance between updates over the window. Default: everything at once, at ``start``."""
    initial_sparsity: Share = 0.0
    """Share that is removed at the start of the window, with ``every``."""
    curve: Curve = "cubic"
    """How the share moves over the window, with ``every``."""
    scope: Literal["global", "local"] = "global"
    """What competes: ``global`` all together, ``local`` each layer (or list of layers) for itself. Magnitudes of
    channels compete relative to the mean of their group, since the scale of weights differs from layer to layer."""
    budget: ChannelBudget | None = None
    """What may stay instead of ``final_sparsity``: ``{parameters: 0.5}``, ``{macs: 0.5}``, ``{latency: 0.5}``, or
    several of them at once."""

    @property
    @abstractmethod
    def wanted_share(self) -> float | None:
        """The share that is removed from the end of the window on; None where the aim is another."""

    @field_validator("final_sparsity", check_fields=False)
    @classmethod
    def _one_aim(cls, value: Any, info: ValidationInfo) -> Any:
        budget = info.data.get("budget")
        if "budget" in info.data and (value is None) == (budget is None):
            raise ValueError("say what is removed, final_sparsity, or what may stay, budget: one of the two")
        return value

    @property
    def update_interval(self) -> Time | None:
        return self.every

    @property
    def acts_once(self) -> bool:
        return self.every is None

    def unused_fields(self) -> Sequence[str]:
        idle = {"initial_sparsity", "curve"} if self.acts_once else set()
        if self.curve == "constant" or not isinstance(self.curve, str):
            idle.add("initial_sparsity")
        return sorted(idle & self.model_fields_set)

    def claimed(self, training: Training) -> Sequence[nn.Parameter]:
        return [each for module in training.targets().values() for each in module.parameters(recurse=False)]

    def check(self, training: Training) -> None:
        super().check(training)
        if not training.data.has_example:
            raise ScheduleError(
                f"{self.name} ({self.type}) reads what hangs together from a run of the model: give inputs to run it "
                "with, example_inputs=(x,), or data=loader"
            )

    def remarks(self, training: Training) -> Sequence[str]:
        lines = list(super().remarks(training))
        if not training.data.has_example:
            lines.append("what hangs together is read from a run of the model: give example_inputs to see it")
        elif self.chooses_in_training:
            lines.append(
                "sizes are an estimate: what goes is chosen by the model as it is then, after training, and not as it "
                "is now"
            )
        return lines

    @property
    def chooses_in_training(self) -> bool:
        """Whether the choice, which sizes depend on, is made after weights may have been trained."""
        trained = not self.acts_once or self.start.value > 0
        return trained and (self.scope == "global" or self.budget is not None)

    def aims_at_nothing(self, aim: float) -> bool:
        """Whether nothing is to be removed."""
        return aim == 0.0 if self.budget is None else all(share == 1 for share in self.allowed(aim).values())

    def aim(self, progress: float) -> float:
        """The share that is removed; with a budget the progress itself, see `allowed`; 1 where the aim is another."""
        if self.budget is not None:
            return progress
        wanted = self.wanted_share
        if wanted is None:
            return 1.0
        return curve_value(self.curve, progress, min(self.initial_sparsity, wanted), wanted)

    def allowed(self, progress: float) -> dict[str, float]:
        """Of a budget: by kind of cost the share that may stay."""
        assert self.budget is not None
        start = 1 - self.initial_sparsity
        return {kind: curve_value(self.curve, progress, start, share) for kind, share in self.budget.shares.items()}

    def missed_share(self, reached: float, slack: float = 0.0) -> str | None:
        """What was reached and what was wanted of a share; None where it is reached, up to ``slack``."""
        wanted = self.wanted_share
        if wanted is None or wanted == 0 or (reached > 0 and reached >= wanted - min(slack, wanted / 2) - EXACT):
            return None
        return f"sparsity {reached:.4g} was reached, {wanted:.4g} was wanted"

    def missed_budget(self, reached: Mapping[str, float]) -> str | None:
        """What was reached (1 where nothing is known) and what was wanted of a budget; None where it is met."""
        wanted = {} if self.budget is None else self.budget.shares
        missed = [
            f"{kind} {reached.get(kind, 1.0):.4g} of what it was before was reached, {share:.4g} was wanted"
            for kind, share in wanted.items()
            if reached.get(kind, 1.0) > share * (1 + SLACK.get(kind, EXACT))
        ]
        return "; ".join(missed) or None
