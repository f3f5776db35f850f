"""`Proposal`: how `paredown recommend` may use a modifier: in which stage of a run, how much, and with which fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["STAGES", "Proposal", "Stage"]

Stage = Literal["shape", "zeros", "values", "grid", "teacher", "rate"]

#: in the order in which they act, and why in that order: what is removed needs no zeros, zeros need no codes
STAGES: tuple[Stage, ...] = ("shape", "zeros", "values", "grid", "teacher", "rate")


@dataclass(frozen=True)
class Proposal:
    """One use of a modifier class, with one amount.

    Attributes:
        stage: what it is about: ``shape`` (fewer channels, low rank), ``zeros``, ``values`` (few shared ones), ``grid``
            (few bits), ``teacher``, ``rate`` (the learning rate). A recipe takes one proposal a stage at most.
        words: what it does, in a few words: "80% of the weights zero".
        fields: of the modifier in the recipe, without its times.
        trained: whether it works in a training loop; else it is for models without one.
        healed: of the harm that it does at once, the share that is expected to remain after training.
        times: fields that are times, as a share of its window: ``{"freeze_observers": 0.5}``.
        durations: fields that are durations, in the same way.
        whole: whether its window is the whole run, not its stage's part.
    """

    stage: Stage
    words: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = True
    healed: float = 0.1
    times: Mapping[str, float] = field(default_factory=dict)
    durations: Mapping[str, float] = field(default_factory=dict)
    whole: bool = False
