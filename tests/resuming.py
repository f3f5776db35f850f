"""A run that is stopped, saved, and gone on with by everything rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from sample_models import Batch, train
from torch import nn

import paredown
from paredown import ScheduledManager

Parts = tuple[nn.Module, torch.optim.Optimizer, ScheduledManager]


def going(data: Sequence[Batch]) -> Callable[[nn.Module, torch.optim.Optimizer, int, int], None]:
    """Somebody's loop, from a first step to before a last one, over the same batches again and again."""

    def go(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        train(model, optimizer, [data[step % len(data)] for step in range(first, last)])

    return go


def assert_resumes(
    begun: Callable[[], Parts],
    go: Callable[[nn.Module, torch.optim.Optimizer, int, int], None],
    last: int,
    stops: Iterable[int],
    folder: Path,
) -> nn.Module:
    """Whatever the step at which a run stops, its weights come out the same bits; gives the model of the whole run.

    Args:
        begun: builds model, optimizer and manager, and calls ``modify``.
        go: takes the steps from a first one to before a last one.
        last: steps of the whole run.
        stops: steps after which it is saved.
        folder: for the checkpoints.
    """
    whole = begun()
    go(*whole[:2], 0, last)
    whole[2].finalize()
    for at in stops:
        parts = begun()
        go(*parts[:2], 0, at)
        paredown.save(folder / "c.pt", *parts)
        again = begun()
        paredown.resume(folder / "c.pt", *again)
        go(*again[:2], at, last)
        again[2].finalize()
        for ours, theirs in zip(again[0].parameters(), whole[0].parameters(), strict=True):
            assert torch.equal(ours, theirs), f"stopped after step {at}"
    return whole[0]
