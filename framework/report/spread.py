"""The mean and the spread of one number over the seeds of a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread"]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the deviation of a single value is 0, and nan values give nan.

    >>> str(Spread.of([0.98, 0.97])), str(Spread.of([0.98]))
    ('0.9750 ± 0.0071', '0.9800')
    """

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one value or more."""
        mean = statistics.fmean(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        return cls(mean, math.sqrt(squares / max(len(values) - 1, 1)), len(values))

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.deviation:.4f}" if self.count > 1 else "")
