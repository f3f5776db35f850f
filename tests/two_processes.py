"""What a run gives in two processes, and in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Run = Callable[[str, int, int], Any]


def alike_in_two_processes(
    run: Run, names: Iterable[str], folder: Path
) -> Iterator[tuple[str, str, torch.Tensor, torch.Tensor | None]]:
    """Asserts that ``run(name, rank, world)``, a state dict, is the same bits in both processes of a gloo group; gives
    each name, each key, the tensor there, and the one of a run in one process (None where that has no such key, as
    where decisions are measured times).

    ``run`` is a function of a module.
    """
    names = list(names)
    mp.spawn(_process, (str(folder), run, names), nprocs=2)
    first, second = (torch.load(folder / f"{rank}.pt") for rank in (0, 1))
    for name in names:
        alone = run(name, 0, 1)
        assert first[name].keys() == second[name].keys(), name
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), (name, key)
            yield name, key, value, alone.get(key)


def _process(rank: int, folder: str, run: Run, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save({name: run(name, rank, 2) for name in names}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
