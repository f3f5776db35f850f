"""Two processes: finding a global threshold without gathering, memory under FSDP2, and the same results as in one.

    python benchmarks/distributed.py            # 10M scores, a model of 25M weights; about two minutes
    python benchmarks/distributed.py --small    # seconds, and no promises of time and memory

All processes are on this machine, joined by gloo, with one thread each. Where memory is measured, the C library is told
to give large blocks back to the system when they are freed (MALLOC_MMAP_THRESHOLD_): else what it keeps is measured,
which under FSDP2 is more than a whole model, with paredown or without. Exits with 1 where a promise is not kept:

- the threshold is the same by a radix histogram (paredown), by gathering all scores and by bisection, and the
  histogram is the fastest;
- under FSDP2 the number of zeros is exact, and zeros are still zero after 50 more steps;
- the memory of a process of two is below .6 of what the same recipe takes in one process;
- masks and weights are those of one process: masks the same bits, weights to 1e-6.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from harness import Table, command_line, in_turns, medians, verdict, wall_seconds
from peak_memory import peak_of
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from paredown import Recipe, ScheduledManager
from paredown.modifiers.pruning.selection.select import find_threshold

SPARSITY = 0.9
#: of a score: an odd number of rows, so that no two processes hold the same number
ROWS, COLUMNS = 501, 500
MEMORY_SHARE, FURTHEST = 0.6, 1e-6
ALLOCATOR = "MALLOC_MMAP_THRESHOLD_"
NOISE = 1.15  # a machine that others use too

Method = Callable[[Sequence[DTensor], int], int]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, small="250,000 scores, small models, no promises of time")
    small = parser.parse_args(arguments).small
    short = thresholds(*((1, 2) if small else (40, 5)))
    short += zeros(*((64, 4) if small else (512, 8)))
    short += memory(*((64, 4) if small else (1024, 24)))
    return verdict(short + agreement())


# --- the threshold


def thresholds(tensors: int, rounds: int) -> list[str]:
    """Print the table of times; where thresholds differ, or (but for few rounds) the histogram is not the fastest."""
    size = tensors * ROWS * COLUMNS
    print(f"{size / 1e6:.1f}M float32 scores in {tensors} tensors, split among 2 processes; medians of {rounds} rounds")
    told = in_processes(_thresholds, 2, tensors, rounds)
    columns = (("seconds", ">10.3f"), ("/ paredown", ">12.2f"), ("kB a process", ">14.1f"))
    table = Table(("a global threshold by", "<28"), *columns)
    median = medians(told[0]["seconds"])
    for name, seconds in median.items():
        sent = told[0]["bytes"].get(name) or 4 * size // 2
        table.row(name, seconds, seconds / median["paredown"], sent / 1e3)
    keys = {key for one in told for key in one["keys"].values()}
    if len(keys) != 1:
        return [f"the thresholds differ: {sorted(keys)}"]
    if rounds < 5:
        return []
    others = min(seconds for name, seconds in median.items() if name != "paredown")
    return promised(median["paredown"] <= others * NOISE, "the histogram is the fastest")


def _thresholds(rank: int, world: int, tensors: int, rounds: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (world,))
    generator = torch.Generator().manual_seed(0)
    scores = [
        distribute_tensor(torch.randn(ROWS, COLUMNS, generator=generator), mesh, [Shard(0)]) for _ in range(tensors)
    ]
    count = round(SPARSITY * tensors * ROWS * COLUMNS)
    keys, sent = {}, {}

    def together(name: str) -> None:
        keys[name] = METHODS[name](scores, count)
        dist.barrier()

    def timed(name: str) -> float:
        dist.barrier()
        return wall_seconds(lambda: together(name))

    seconds = in_turns({name: functools.partial(timed, name) for name in METHODS}, rounds, warm_up=1)
    for name in ("paredown", "bisection"):
        sent[name] = bytes_reduced(functools.partial(METHODS[name], scores, count))
    return {"seconds": seconds, "keys": keys, "bytes": sent}


def by_histogram(scores: Sequence[DTensor], count: int) -> int:
    return find_threshold(scores, count).key


def gathered(scores: Sequence[DTensor]) -> Tensor:
    return torch.cat([score.full_tensor().abs().flatten() for score in scores])


def by_kthvalue(scores: Sequence[DTensor], count: int) -> int:
    return key_of(gathered(scores).kthvalue(count).values)


def by_partition(scores: Sequence[DTensor], count: int) -> int:
    return key_of(torch.tensor(np.partition(gathered(scores).numpy(), count - 1)[count - 1]))


def by_bisection(scores: Sequence[DTensor], count: int) -> int:
    """Half the interval of values until it holds one float, or a bound splits off exactly ``count`` scores."""
    parts = [score.to_local().abs() for score in scores]
    largest = torch.stack([part.max() for part in parts]).max()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    low, high = torch.tensor(0.0), largest
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return key_of(high)
        below = torch.stack([(part <= middle).count_nonzero() for part in parts]).sum()
        dist.all_reduce(below)
        if below == count:
            break
        low, high = (low, middle) if below > count else (middle, high)
    last = torch.stack([part[part <= middle].max() for part in parts]).max()
    dist.all_reduce(last, dist.ReduceOp.MAX)
    return key_of(last)


METHODS: dict[str, Method] = {
    "paredown": by_histogram,
    "gathering, kthvalue": by_kthvalue,
    "gathering, numpy.partition": by_partition,
    "bisection": by_bisection,
}


def key_of(magnitude: Tensor) -> int:
    """A magnitude's bits, which order magnitudes as the magnitudes do."""
    return int(magnitude.reshape(1).view(torch.int32))


def bytes_reduced(act: Callable[[], Any]) -> int:
    """How many bytes a process hands to all_reduce."""
    counted, reduce = [0], dist.all_reduce

    def all_reduce(tensor: Tensor, *arguments: Any, **more: Any) -> Any:
        counted[0] += tensor.numel() * tensor.element_size()
        return reduce(tensor, *arguments, **more)

    dist.all_reduce = all_reduce
    try:
        act()
    finally:
        dist.all_reduce = reduce
    return counted[0]


# --- a training run under FSDP2


def zeros(width: int, depth: int) -> list[str]:
    """Print the counts of zeros; where they are not exact, or do not stay."""
    told = in_processes(_zeros, 2, width, depth)
    wanted = round(SPARSITY * depth * width * width)
    print(f"\nFSDP2, {depth} layers of {width} x {width}: {told[0]['zeros']:,} zeros of {wanted:,} wanted,")
    print(f"{told[0]['kept']:,} of them still zero after 50 more steps", flush=True)
    exact = all(one["zeros"] == one["kept"] == wanted for one in told)
    return promised(exact, "the number of zeros is exact and they stay")


def full(weight: Any) -> torch.Tensor:
    """A parameter that is split among processes, put together."""
    return weight.full_tensor()


def _zeros(rank: int, world: int, width: int, depth: int) -> dict[str, int]:
    model, optimizer, manager = begun(width, depth, world)
    x = torch.randn(8, width, generator=torch.Generator().manual_seed(rank))
    steps(model, optimizer, x, 20)
    assert manager.done
    at_once = [full(weight) == 0 for weight in model.parameters()]
    steps(model, optimizer, x, 50)
    later = [full(weight) == 0 for weight in model.parameters()]
    kept = sum(int((a & b).sum()) for a, b in zip(at_once, later, strict=True))
    return {"zeros": sum(int(zero.sum()) for zero in at_once), "kept": kept}


def memory(width: int, depth: int) -> list[str]:
    """Print the peak memory of one process and of each of two; where a large model's share is above the promise."""
    os.environ[ALLOCATOR] = "65536"  # of the processes that are started from here
    alone = in_processes(_memory, 1, width, depth)[0]
    split = max(in_processes(_memory, 2, width, depth))
    del os.environ[ALLOCATOR]
    print(f"\npeak memory over that before the model, {depth * width * width / 1e6:.1f}M float32 weights")
    print(
        f"one process: {alone / 1e6:.0f} MB; each of two under FSDP2: {split / 1e6:.0f} MB, {split / alone:.2f} of it"
    )
    return promised(width < 1024 or split < MEMORY_SHARE * alone, f"memory below {MEMORY_SHARE} of one process")


def _memory(rank: int, world: int, width: int, depth: int) -> int:
    def train(size: int) -> None:
        model, optimizer, manager = begun(size, depth, world)
        steps(model, optimizer, torch.randn(8, size), 25)
        assert manager.done

    train(8)  # loads what is imported late
    return peak_of(lambda: train(width))


def begun(width: int, depth: int, world: int) -> tuple[nn.Module, torch.optim.Optimizer, ScheduledManager]:
    """A model of equal layers, split where there are several processes, in gradual pruning for 20 steps."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for _ in range(depth):
        layer: nn.Module = nn.Linear(width, width, bias=False)
        model.append(layer)
        if world > 1:
            fully_shard(layer)
    if world > 1:
        fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    prune = {"type": "magnitude_pruning", "end": "20 steps", "every": "2 steps", "final_sparsity": SPARSITY}
    recipe = Recipe.load({"recipe": 1, "name": "memory", "run": {"epochs": 100}, "modifiers": {"prune": prune}})
    manager = ScheduledManager(recipe)
    manager.modify(model, optimizer, 1)
    return model, optimizer, manager


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


# --- the same as in one process

FAMILIES = {
    "svd": {"type": "svd_decomposition", "targets": ["4"], "rank": 3, "guard": "none"},
    "prune": {"type": "magnitude_pruning", "targets": ["0", "2"], "start": 1, "end": 3, "final_sparsity": SPARSITY},
    "quantize": {"type": "quantization_aware_training", "targets": ["0", "2"], "start": 2},
    "distill": {"type": "knowledge_distillation", "temperature": 4, "weight": 0.5},
}


def agreement() -> list[str]:
    """Print how far two processes are from one; where masks differ or weights are far apart."""
    alone = in_processes(_families, 1, "")[0]
    print("\nall four families, float64, 2 processes beside one")
    table = Table(("", "<28"), ("masks", ">10"), ("weights", ">12.1e"))
    short = []
    for way in ("DistributedDataParallel", "FSDP2"):
        both = in_processes(_families, 2, way)
        same = all(torch.equal(one["masks"][name], mask) for one in both for name, mask in alone["masks"].items())
        far = max(
            float((one["weights"][name] - weight).abs().max())
            for one in both
            for name, weight in alone["weights"].items()
        )
        table.row(way, "same" if same else "differ", far)
        short += promised(same and far <= FURTHEST, f"masks the same, weights to {FURTHEST:g} by {way}")
    return short


def _families(rank: int, world: int, way: str) -> dict[str, Any]:
    torch.manual_seed(0)
    layers = (nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    model: nn.Module = nn.Sequential(*layers).double()
    data = [(torch.randn(8, 16).double(), torch.randint(0, 4, (8,))) for _ in range(10)]
    manager = ScheduledManager(Recipe.load({"recipe": 1, "run": {"epochs": 4}, "modifiers": FAMILIES}))
    manager.prepare(model)
    if way == "FSDP2":
        for layer in list(model.children()):
            fully_shard(layer)
        fully_shard(model)
    elif way:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    manager.modify(model, optimizer, len(data))
    for x, y in data * 4:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rank::world]), y[rank::world]).backward()
        optimizer.step()
    weights = {name.removeprefix("module."): whole(weight) for name, weight in model.named_parameters()}
    manager.finalize()
    masks = {name: weight == 0 for name, weight in weights.items() if weight.ndim > 1}
    return {"masks": masks, "weights": weights}


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


# --- processes


def promised(kept: bool, promise: str) -> list[str]:
    return [] if kept else [f"{promise}: was promised"]


def in_processes(work: Callable[..., Any], count: int, *given: Any) -> list[Any]:
    """What ``work(rank, count, *given)`` gives in each of so many fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, (count, folder, work, given), nprocs=count)  # type: ignore[attr-defined]
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(count)]


def _process(rank: int, count: int, folder: str, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    torch.save(work(rank, count, *given), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # past torch 2.13's end of a process, which FSDP2 on gloo sometimes aborts


if __name__ == "__main__":
    sys.exit(main())
