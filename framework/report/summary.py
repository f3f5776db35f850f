"""The numbers that a report holds: totals of one model, a row a layer, and curves over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from paredown.framework.report.spread import Spread

__all__ = ["Curve", "LayerRow", "Summary"]


@dataclass(frozen=True)
class Summary:
    """One model in numbers; None where a number was not measured.

    ``bytes`` are those of a DEFLATE-compressed file with all tensors, ``bytes_plain`` of an uncompressed one;
    ``latency`` is milliseconds a forward (lower quartile, median, upper quartile): on the CPU the processor time of one
    thread, on an accelerator wall-clock time; ``values`` are those of each metric by its name, one a seed, nan where a
    model diverged.
    """

    parameters: int
    nonzeros: int
    bytes: int | None = None
    bytes_plain: int | None = None
    macs: int | None = None
    latency: tuple[float, float, float] | None = None
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """Share of zeros among the parameters."""
        return 1 - self.nonzeros / max(self.parameters, 1)

    @property
    def metrics(self) -> dict[str, float]:
        """Each metric by its name: the mean over seeds."""
        return {name: Spread.of(values).mean for name, values in self.values.items() if values}


@dataclass(frozen=True)
class LayerRow:
    """A layer of the original model, and what replaced it in the compressed one: pairs of (dense, compressed)."""

    name: str
    kind: str
    parameters: tuple[int, int]
    nonzeros: tuple[int, int]
    bits: tuple[float, float]
    macs: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        """The layer's name; a model that is a single layer has none."""
        return self.name or "(model)"


@dataclass(frozen=True)
class Curve:
    """One quantity over the run, as points (epoch, value); of one modifier, or of the whole run where that is ""."""

    quantity: str
    points: tuple[tuple[float, float], ...]
    modifier: str = ""

    @property
    def title(self) -> str:
        """The quantity, with the modifier that it belongs to."""
        return f"{self.quantity} ({self.modifier})" if self.modifier else self.quantity
