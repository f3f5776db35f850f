"""What a run gives in two processes, and in one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from paredown import Recipe

TESTS = str(Path(__file__).parent)
#: what takes seconds: a server imports it once, and each process is a fork of that server
IMPORTED = ["torch._dynamo", "torch.distributed.fsdp", "paredown"]
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
    first, second = in_processes(_runs, 2, folder, run, names)
    for name in names:
        alone = run(name, 0, 1)
        assert first[name].keys() == second[name].keys(), name
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), (name, key)
            yield name, key, value, alone.get(key)


def in_processes(work: Callable[..., Any], count: int, folder: Path, *given: Any) -> list[Any]:
    """What ``work(rank, count, *given)``, a function of a module, gives in each process of a gloo group: tensors and
    plain values."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.set_forkserver_preload(IMPORTED)
    mp.start_processes(_process, (count, str(folder), work, given), nprocs=count, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def weights_of_script(
    folder: Path, script: str, recipe: dict[str, Any], *arguments: str, processes: int = 2, restarts: int = 0
) -> dict[str, torch.Tensor]:
    """What somebody's program, started by torchrun in a new folder with recipe.yaml, leaves in weights.pt."""
    folder.mkdir()
    (folder / "train.py").write_text(script)
    (folder / "recipe.yaml").write_text(Recipe.load(recipe).to_yaml())
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), "train.py", *arguments],
        cwd=folder,
        # the agent's store keeps the addresses of dead workers, and gloo would connect to them (torch 2.13)
        env={**os.environ, "PYTHONPATH": TESTS, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "weights.pt")


def _runs(rank: int, count: int, run: Run, names: list[str]) -> dict[str, Any]:
    return {name: run(name, rank, count) for name in names}


def _process(rank: int, count: int, folder: str, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{count}", rank=rank, world_size=count)
    torch.save(work(rank, count, *given), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads sometimes abort at the interpreter's end (torch 2.13)
