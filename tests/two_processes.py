"""What a run gives in each of two processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Run = Callable[[str, int, int], Any]


def in_two_processes(run: Run, names: Iterable[str], folder: Path) -> list[dict[str, Any]]:
    """``run(name, rank, world)`` for each name, in both processes of a gloo group: results by name, by rank.

    ``run`` is a function of a module; what it gives is saved with `torch.save`.
    """
    mp.spawn(_process, (str(folder), run, list(names)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def _process(rank: int, folder: str, run: Run, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save({name: run(name, rank, 2) for name in names}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
