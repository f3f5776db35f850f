"""The result of one seed: its report and its metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paredown.framework.report import Report
from paredown.framework.report.metrics import Measured

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """The result of running a recipe under one seed.

    Attributes:
        seed: the seed of the dense training and of the recipe.
        report: dense beside compressed.
        dense, compressed: what the two models reached, by metric.
        curve: (epoch, what the model reached) while the recipe ran.
    """

    seed: int
    report: Report
    dense: Measured
    compressed: Measured
    curve: Sequence[tuple[float, Measured]]

    def to_plain(self) -> dict[str, Any]:
        """The outcome as values that JSON can hold."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "report": self.report.to_json()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_plain` wrote.

        Raises:
            ParedownError, KeyError, TypeError, ValueError: the values are those of no outcome.
        """
        curve = [(at, dict(measured)) for at, measured in plain["curve"]]
        return cls(**{**plain, "report": Report.from_json(plain["report"]), "curve": curve})
