"""The result of one seed: its report and its accuracies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paredown.framework.report import Report

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """The result of running a recipe under one seed.

    Attributes:
        seed: the seed of the dense training and of the recipe.
        report: dense beside compressed.
        dense_accuracy, accuracy: of the dense and of the compressed model.
        accuracies: (epoch, accuracy) while the recipe ran.
    """

    seed: int
    report: Report
    dense_accuracy: float
    accuracy: float
    accuracies: Sequence[tuple[float, float]]

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
        accuracies = [(at, accuracy) for at, accuracy in plain["accuracies"]]
        return cls(**{**plain, "report": Report.from_json(plain["report"]), "accuracies": accuracies})
